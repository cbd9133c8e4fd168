"""Every balancer in mixed precision, with a real gradient scaler: near float32, and exactly so but for the layers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Hashable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.optim import SGD

from mtl_lightning.tasks import Regression
from tests.contracts.balancer_cases import CASES, Case
from tests.core.saved import single
from tests.cover import covering, pairs_of
from tests.helpers import SPECS, fit, make_batches, make_module, make_tasks, weights_of

UPDATES, FIRST_SCALE, LAST_SCALE = 4, 2.0**10, 2.0**12  # doubled every two updates
OURS = [case for case in CASES if case.ours]
WITH_DEFAULTS = [case for case in OURS if "-" not in case.name]
NEAR = {"bf16-mixed": 0.02, "16-mixed": 0.003}  # of the displacement's length; 0.005 and 0.0006 were measured
EXACT = 1e-5
JUMPING = ("CosineGating", "GradDrop", "SDMGrad")
"""Methods that decide by signs, or whose weights descend in steps so long that they end anywhere: even in float32,
inputs that differ by 0.0003 may reverse what SDMGrad makes of them. What they do to the trunk is not comparable."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class ScaledOnly(MixedPrecision):
    """16-mixed whose layers stay in float32: what is left of it is the gradient scaler."""

    def autocast_context_manager(self) -> torch.autocast:
        return torch.autocast(self.device, enabled=False)


def with_scaler(plugin: type[MixedPrecision]) -> dict[str, Any]:
    """A real scaler, which a trainer on the CPU does not make by itself, and whose scale changes on the way."""
    scaler = torch.amp.GradScaler("cpu", FIRST_SCALE, growth_interval=UPDATES // 2)
    return {"precision": None, "plugins": [plugin("16-mixed", "cpu", scaler=scaler)]}


def options_of(precision: str) -> dict[str, Any]:
    return with_scaler(MixedPrecision) if precision == "16-mixed" else {"precision": precision}


def train(case: Case, *, window: int = 1, **options: Any) -> dict[str, Tensor]:
    """How far a few updates move the weights, and what state they leave in the balancer.

    All losses are smooth: the slope of an absolute error jumps with a sign, which no precision can be held to.
    """
    tasks = {**make_tasks(), "vector": Regression(SPECS["vector"])}
    optimizer = partial(SGD, lr=0.01, fused=False)  # a fused one cannot be unscaled beforehand
    optimizers = {"default": optimizer, "balancer": optimizer}
    module = make_module(tasks=tasks, balancer=partial(case.make, seed=3), optimizers=optimizers)
    before = weights_of(module)
    trainer = fit(module, single(make_batches(UPDATES * window)), accumulate_grad_batches=window, **options)
    assert trainer.global_step == UPDATES
    if trainer.scaler is not None:
        assert trainer.scaler.get_scale() == LAST_SCALE  # no update was skipped
    after = {name: value.detach() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    assert all(value.isfinite().all() for value in after.values())
    return {n: value if n.startswith("balancer.") else value - before[n] for n, value in after.items()}


@functools.cache
def in_float32(name: str, window: int = 1) -> dict[str, Tensor]:
    return train(next(case for case in OURS if case.name == name), window=window, precision="32-true")


def distance(found: dict[str, Tensor], expected: dict[str, Tensor], part: str) -> float:
    """The length of the difference of all values of one part of the module, over the length of the expected ones."""
    first, second = (
        torch.cat([value.double().reshape(-1) for name, value in values.items() if name.startswith(part)])
        for values in (found, expected)
    )
    assert second.norm() > 0
    return float((first - second).norm() / second.norm())


def _pairs(case: tuple[Any, ...]) -> set[Hashable]:
    """Of method, form and precision."""
    method, _, form = case[0].name.partition("-")
    return pairs_of(method, form, case[1])


@pytest.mark.parametrize(("case", "precision"), covering([*product(OURS, NEAR)], _pairs))
def test_mixed_precision_is_near_float32(case: Case, precision: str) -> None:
    found, expected = train(case, **options_of(precision)), in_float32(case.name)
    if not case.name.startswith(JUMPING):
        assert distance(found, expected, "architecture.") < NEAR[precision]
        assert distance(found, expected, "heads.") < NEAR[precision]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        size = value.double().norm().item()
        assert (found[name].double() - value.double()).norm().item() <= EXACT * size, name


@pytest.mark.parametrize(
    "case", [case if case in WITH_DEFAULTS else pytest.param(case, marks=pytest.mark.slow) for case in OURS], ids=str
)
def test_a_scaler_alone_changes_nothing(case: Case) -> None:
    """It is divided out before a method that is not scale-free sees a loss or a gradient, and before state is kept."""
    assert_equal(train(case, **with_scaler(ScaledOnly)), in_float32(case.name))


def _kind(case: tuple[Any, ...]) -> set[Hashable]:
    """The classes that a balancer is, its own left out."""
    return {*type(case[0].make(2)).__mro__[1:]}


@pytest.mark.parametrize("case", covering([(case,) for case in WITH_DEFAULTS], _kind))
def test_a_scaler_alone_changes_nothing_in_windows(case: Case) -> None:
    assert_equal(train(case, window=2, **with_scaler(ScaledOnly)), in_float32(case.name, 2))
