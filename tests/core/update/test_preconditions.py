"""Losses that a formula does not hold for, and runs that are all warm-up: one warning each, with names and numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import (
    CRMOGM,
    DBMTL,
    DWA,
    FAMO,
    IMTLL,
    MGDA,
    STCH,
    UWSO,
    Balancer,
    EMANormalization,
    FixedWeighting,
    GeometricMean,
    GradNorm,
    LogLosses,
    MoCo,
    RandomWeighting,
    UncertaintyWeighting,
)
from mtl_lightning.tasks import Regression
from mtl_lightning.types import Likelihood, MtlLightningWarning, TargetSpec, TensorSpec
from tests.helpers import fit

SIZE = 3


def density(output: Tensor, target: Tensor) -> Tensor:
    """A loss of 0 or more, less 5: below 0 at once, as a density's logarithm may be."""
    return (output - target).square() - 5


def met(balancer: Any, loss: Any = density, epochs: int = 1, **options: Any) -> list[str]:
    """Train two tasks, one of them with a loss of its own; return what was warned of."""
    torch.manual_seed(0)
    odd = partial(Regression, loss=loss, likelihood=Likelihood(0.5, 0.5, "log_var")) if loss else Regression
    module = MultiTaskModule(
        tasks={"plain": Regression(TargetSpec()), "odd": odd(TargetSpec())},
        input_spec=TensorSpec((SIZE,)),
        architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[4])),
        balancer=balancer,
    )
    rows: Any = [
        {"inputs": torch.randn(4, SIZE), "targets": {"plain": torch.randn(4), "odd": torch.randn(4)}} for _ in range(3)
    ]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(module, torch.utils.data.DataLoader(rows, batch_size=None), max_epochs=epochs, **options)
    return [str(one.message) for one in found if issubclass(one.category, MtlLightningWarning)]


NEEDING: dict[str, Any] = {
    "GeometricMean": GeometricMean,
    "LogLosses": LogLosses,
    "FAMO": FAMO,
    "STCH": partial(STCH, warmup_epochs=0),
    "UWSO": UWSO,
    "UncertaintyWeighting": UncertaintyWeighting,
    "IMTLL": IMTLL,
    "GradNorm": GradNorm,
    "MGDA (LogLosses)": partial(MGDA, losses=LogLosses),
    "MGDA": partial(MGDA, normalization="loss"),
    "CRMOGM (MGDA)": partial(CRMOGM, balancer=partial(MGDA, normalization="loss+")),
    "DBMTL (LogLosses)": DBMTL,
    "MoCo": partial(MoCo, variant="libmtl"),
}
TAKING_ANY = [
    Balancer,
    FixedWeighting,
    RandomWeighting,
    MGDA,
    EMANormalization,
    MoCo,
    partial(GradNorm, alpha=0.0),
    partial(FAMO, min_losses=[0.0, -10.0]),
]


@pytest.mark.parametrize("name", NEEDING)
def test_a_loss_below_0_is_warned_of_once_with_task_and_method(name: str) -> None:
    (message,) = [text for text in met(NEEDING[name]) if "expected losses" in text]
    assert message.startswith(f"{name}: expected losses of 0 or more, found -")
    assert "task 'odd'" in message


@pytest.mark.parametrize("balancer", TAKING_ANY, ids=str)
def test_methods_that_take_any_loss_say_nothing(balancer: Callable[[int], Balancer]) -> None:
    assert met(balancer) == []


def test_losses_of_0_or_more_are_not_warned_of() -> None:
    assert met(GeometricMean, loss=None) == []


def test_logarithms_are_losses_to_what_is_inside() -> None:
    messages = met(partial(LogLosses, losses=UncertaintyWeighting), loss=None)  # both are below 1 at times
    assert messages
    assert all(text.startswith("LogLosses (UncertaintyWeighting): expected losses of 1 or more") for text in messages)
    assert len({text.partition("task ")[2].partition(" by")[0] for text in messages}) == len(messages)


def test_a_bound_of_famo_that_is_too_high_is_warned_of() -> None:
    (message,) = met(partial(FAMO, min_losses=[0.0, 100.0]), loss=None)
    assert message.startswith("FAMO: expected losses of 100 or more")


def test_a_loss_that_dips_between_rows_of_the_record_is_seen() -> None:
    calls = []

    def dips(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return (output - target).square() - 9.0 * (len(calls) == 2)

    (message,) = met(GeometricMean, loss=dips, log_every_n_steps=100)  # the second update of three; a row of the last
    assert "by update 3" in message


def test_torchjds_methods_too() -> None:
    from torchjd.scalarization import UW

    (message,) = met(UW)
    assert message.startswith("TorchJDScalarizer (UW): expected losses of 0 or more")


@pytest.mark.parametrize(
    ("balancer", "needed"),
    [
        (STCH, 5),
        (partial(STCH, warmup_epochs=1), 2),
        (DWA, 2),
        (partial(GradNorm, initial_losses="first_epoch"), 1),
        (partial(MGDA, losses=DWA), 2),
    ],
    ids=str,
)
def test_a_run_that_is_all_warm_up_is_warned_of(balancer: Callable[[int], Balancer], needed: int) -> None:
    (message,) = met(balancer, loss=None, epochs=needed)
    assert f"more than {needed} epochs" in message
    assert f"`trainer.max_epochs: {needed}`" in message


def test_a_longer_run_is_not() -> None:
    assert met(partial(STCH, warmup_epochs=0), loss=None, epochs=2) == []
    assert met(DWA, loss=None, epochs=1, fast_dev_run=True) == []
