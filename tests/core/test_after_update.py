"""What follows an update is done once per update, of an architecture as of a balancer: annealing counts updates."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import pytest
import torch
from torchjd.aggregation import UPGrad

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, LearningToBranch
from mtl_lightning.balancing import AutoLambda, Balancer
from tests.helpers import fit, make_batches, make_module, without

UPDATES = 5
PERIOD = 2
BRANCHING = partial(LearningToBranch, encoder=partial(MLP, hidden=[8, 8]), warmup=0, period=PERIOD)


def trained(batches: int = UPDATES, data: Any = None, *, accumulate: int = 1, **options: Any) -> MultiTaskModule:
    module = make_module(architecture=BRANCHING, **options)
    fit(module, make_batches(batches) if data is None else data, accumulate_grad_batches=accumulate)
    return module


def tau_of(module: MultiTaskModule) -> float:
    return float(cast("LearningToBranch", module.architecture).tau())


def tau_after(updates: int) -> float:
    return 10.0 / math.sqrt(1 + updates / PERIOD)


@pytest.mark.parametrize(("accumulate", "batches"), [(1, 5), (2, 10), (2, 9), (4, 20), (4, 18)])
@pytest.mark.parametrize("balancer", [Balancer, UPGrad(), AutoLambda], ids=["sum", "UPGrad", "AutoLambda"])
def test_annealing_counts_updates_whatever_an_update_is_made_of(balancer: Any, accumulate: int, batches: int) -> None:
    module = trained(batches, accumulate=accumulate, balancer=balancer)
    assert module.trainer.global_step == UPDATES
    assert tau_of(module) == pytest.approx(tau_after(UPDATES))


def test_a_compiled_architecture_counts_them_too() -> None:
    torch.compiler.reset()
    module = trained(9, accumulate=2, compile={"backend": "aot_eager"})
    assert tau_of(module) == pytest.approx(tau_after(UPDATES))


def test_skipped_updates_and_windows_without_a_label_do_not_count() -> None:
    data = make_batches(7)
    data[2]["inputs"] = data[2]["inputs"] * torch.inf
    data[4] = without(data[4], "vector")
    for name, missing in (("number", torch.nan), ("kind", -100)):
        data[4]["targets"][name] = torch.full_like(data[4]["targets"][name], missing)
    module = trained(data=data, on_nonfinite="skip")
    assert module.skipped == 1
    assert tau_of(module) == pytest.approx(tau_after(UPDATES))


def test_checkpoints_hold_the_count_under_the_name_that_old_ones_have() -> None:
    assert trained().state_dict()["architecture.seen"] == UPDATES
