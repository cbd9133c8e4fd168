"""DWA: weights from two epochs' means, each task's own history, torchjd's and LibMTL's numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torchjd.scalarization
from torch import Tensor

from mtl_lightning.balancing.losses.dwa import DWA
from tests.balancing.loss_cases import LOSSES, assert_golden, flags, reloaded, weights_of
from tests.golden import Case, cases

ALL = flags(1, 1, 1)


def epochs(balancer: DWA, *means: list[float]) -> DWA:
    for values in means:
        balancer.after_epoch(torch.tensor(values, dtype=torch.float64), ALL)
    return balancer


def exact(tasks: int = 3, temperature: float = 2.0) -> DWA:
    return DWA(tasks, temperature=temperature).double()


def test_the_sum_for_two_epochs() -> None:
    balancer = exact()
    for _ in range(2):
        assert weights_of(balancer, LOSSES).tolist() == [1.0, 1.0, 1.0]
        epochs(balancer, [1.0, 2.0, 3.0])


def test_by_hand() -> None:
    balancer = epochs(exact(), [9.0, 9.0, 9.0], [4.0, 2.0, 1.0], [2.0, 2.0, 0.25])
    powers = [math.exp(rate / 2) for rate in (0.5, 1.0, 0.25)]
    expected = [3 * power / sum(powers) for power in powers]
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx(expected, rel=1e-14)


def test_a_task_keeps_its_history_over_epochs_that_it_is_absent_from() -> None:
    balancer = epochs(exact(), [4.0, 4.0, 4.0], [2.0, 1.0, 2.0])
    balancer.after_epoch(torch.tensor([1.0, 0.0, math.nan]), flags(1, 0, 1))
    assert balancer.older.tolist() == [2.0, 4.0, 4.0]
    assert balancer.newer.tolist() == [1.0, 1.0, 2.0]
    assert balancer.epochs.tolist() == [3, 2, 2]
    expected = 3 * torch.tensor([0.5, 0.25, 0.5], dtype=torch.float64).div(2).softmax(0)
    torch.testing.assert_close(weights_of(balancer, LOSSES), expected)


def test_a_task_with_one_epoch_has_the_rate_of_one() -> None:
    balancer = exact()
    balancer.after_epoch(LOSSES, flags(1, 1, 0))
    balancer.after_epoch(LOSSES / 2, ALL)
    expected = 3 * torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64).div(2).softmax(0)
    torch.testing.assert_close(weights_of(balancer, LOSSES), expected)


def test_an_absent_task_changes_no_other_weight() -> None:
    balancer = epochs(exact(), [4.0, 2.0, 1.0], [2.0, 2.0, 0.25])
    everyone, some = weights_of(balancer, LOSSES), weights_of(balancer, LOSSES, flags(1, 0, 1))
    assert some.tolist() == [everyone[0].item(), 0.0, everyone[2].item()]


@pytest.mark.parametrize("first", [0.0, 1e-300])
def test_means_that_make_no_rate_make_no_nan(first: float) -> None:
    weights = weights_of(epochs(exact(), [first, 1.0, 1.0], [1.0, 1.0, 1.0]), LOSSES)
    assert weights.isfinite().all()
    assert weights.sum().item() == pytest.approx(3.0)


def test_goes_on_after_a_reload() -> None:
    balancer = epochs(DWA(3), [4.0, 2.0, 1.0], [2.0, 2.0, 0.25])
    fresh = reloaded(balancer, DWA(3))
    for part in (balancer, fresh):
        epochs(part, [1.0, 1.0, 1.0])
    assert not torch.equal(weights_of(fresh, LOSSES), torch.ones_like(LOSSES))
    assert torch.equal(weights_of(fresh, LOSSES), weights_of(balancer, LOSSES))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_agrees_with_torchjd(temperature: float) -> None:
    ours, theirs = exact(temperature=temperature), torchjd.scalarization.DWA(temperature=temperature)
    for seed in range(4):
        losses: Tensor = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
        torch.testing.assert_close(ours(losses), theirs(losses), rtol=1e-14, atol=0.0)
        ours.after_epoch(losses, ALL)
        theirs.step()


@pytest.mark.parametrize("case", cases("DWA"), ids=str)
def test_libmtl(case: Case) -> None:
    balancer = exact(case.tasks, temperature=case.hyper["T"])
    for recorded in case.steps:
        assert_golden(recorded, weights_of(balancer, recorded["losses"]))
        balancer.after_epoch(recorded["losses"], torch.ones(case.tasks, dtype=torch.bool))
