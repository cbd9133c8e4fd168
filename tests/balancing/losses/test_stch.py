"""STCH: warm-up, nadir, smooth maximum, tasks that are late or absent, torchjd's and LibMTL's numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchjd.scalarization
from torch import Tensor

from mtl_lightning.balancing.losses.stch import STCH, smooth_maximum
from tests.balancing.loss_cases import LOSSES, assert_golden, flags, reloaded, weights_of
from tests.golden import Case, cases

ALL = flags(1, 1, 1)
NADIR = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
EXACT = 1e-30  # below the rounding error of any loss here


def started(**options: Any) -> STCH:
    """Past a warm-up of no epoch, with ``NADIR``."""
    balancer = STCH(3, warmup_epochs=0, eps=EXACT, **options).double()
    balancer.after_epoch(NADIR, ALL)
    return balancer


def test_the_sum_of_logarithms_until_the_nadir_is_known() -> None:
    balancer = STCH(3, warmup_epochs=2, eps=EXACT).double()
    for epoch in range(3):
        assert balancer(LOSSES).item() == pytest.approx(math.log(8.0), rel=1e-14)
        assert weights_of(balancer, LOSSES).tolist() == pytest.approx([1.0, 0.5, 0.25], rel=1e-14)
        assert not balancer.known.any()
        balancer.after_epoch(NADIR + epoch, ALL)
    assert balancer.nadir.tolist() == (NADIR + 2).tolist()
    balancer.after_epoch(LOSSES, ALL)
    assert balancer.nadir.tolist() == (NADIR + 2).tolist()


def test_by_hand() -> None:
    ratios = [0.5, 2.0, 1.0]
    assert started()(LOSSES).item() == pytest.approx(3 * math.log(sum(ratios)), rel=1e-14)
    squares = [ratio**2 for ratio in ratios]
    expected = 3 * 0.5 * math.log(sum(squares))
    assert started(mu=0.5)(LOSSES).item() == pytest.approx(expected, rel=1e-14)
    weights = [3 * square / sum(squares) / loss for square, loss in zip(squares, (1, 2, 4), strict=True)]
    assert weights_of(started(mu=0.5), LOSSES).tolist() == pytest.approx(weights, rel=1e-14)


def test_with_a_small_mu_the_worst_task_takes_all() -> None:
    balancer = started(mu=1e-4)
    assert balancer(LOSSES).item() == pytest.approx(3 * math.log(2.0), rel=1e-12)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx([0.0, 3 / 2, 0.0])


def test_a_common_factor_makes_no_difference() -> None:
    balancer = started()
    torch.testing.assert_close(1e3 * weights_of(balancer, 1e3 * LOSSES), weights_of(balancer, LOSSES))


def test_of_the_present() -> None:
    balancer = started()
    assert balancer(LOSSES, flags(1, 1, 0)).item() == pytest.approx(2 * math.log(2.5), rel=1e-14)
    assert weights_of(balancer, LOSSES, flags(0, 0, 1)).tolist() == [0.0, 0.0, 0.25]


def test_a_late_task_takes_its_own_nadir() -> None:
    balancer = STCH(3, warmup_epochs=0, eps=EXACT).double()
    balancer.after_epoch(torch.where(flags(1, 1, 0), NADIR, 0.0), flags(1, 1, 0))
    assert balancer.known.tolist() == [True, True, False]
    assert balancer(LOSSES).item() == pytest.approx(2 * math.log(2.5) + math.log(4.0), rel=1e-14)
    balancer.after_epoch(LOSSES + 4, ALL)
    assert balancer.nadir.tolist() == [2.0, 1.0, 8.0]
    assert balancer(LOSSES).item() == pytest.approx(3 * math.log(3.0), rel=1e-14)


@pytest.mark.parametrize("mu", [1e-3, 1.0])
def test_a_loss_or_nadir_of_zero_gives_nothing_that_is_not_finite(mu: float) -> None:
    balancer = STCH(3, warmup_epochs=0, mu=mu)
    balancer.after_epoch(torch.tensor([0.0, 1.0, math.inf]), ALL)
    assert balancer.known.tolist() == [True, True, False]
    for losses in (torch.tensor([0.0, 1.0, 1e6]), torch.tensor([1e6, 0.0, 0.0])):
        assert balancer(losses).isfinite()
        assert weights_of(balancer, losses).isfinite().all()


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_goes_on_after_a_reload(epochs: int) -> None:
    balancer = STCH(3, warmup_epochs=1)
    for epoch in range(epochs):
        balancer.after_epoch(NADIR + epoch, ALL)
    fresh = reloaded(balancer, STCH(3, warmup_epochs=1))
    for part in (balancer, fresh):
        part.after_epoch(LOSSES, ALL)
    assert fresh.known.all()
    assert torch.equal(fresh(LOSSES), balancer(LOSSES))


def test_smooth_maximum_of_the_chosen() -> None:
    values = torch.tensor([1.0, 700.0, math.nan, 2.0], dtype=torch.float64)
    chosen = flags(1, 0, 0, 1)
    expected = 0.01 * torch.logsumexp(values[[0, 3]] / 0.01, dim=0)
    torch.testing.assert_close(smooth_maximum(values, chosen, 0.01), expected, rtol=1e-14, atol=0.0)
    assert smooth_maximum(values, flags(0, 0, 0, 0), 0.01) == 0


@pytest.mark.parametrize("mu", [0.05, 1.0])
def test_agrees_with_torchjd(mu: float) -> None:
    ratios = torch.log(LOSSES / NADIR)
    theirs = 3 * torchjd.scalarization.STCH(mu, weights=torch.ones(3, dtype=torch.float64))(ratios)
    torch.testing.assert_close(started(mu=mu)(LOSSES), theirs, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("case", cases("STCH"), ids=str)
def test_libmtl(case: Case) -> None:
    everyone = torch.ones(case.tasks, dtype=torch.bool)
    options = {"mu": case.hyper["STCH_mu"], "warmup_epochs": case.hyper["STCH_warmup_epoch"]}
    balancer = STCH(case.tasks, eps=EXACT, **options).double()
    for recorded in case.steps:
        assert_golden(recorded, weights_of(balancer, recorded["losses"]))
        balancer.after_epoch(recorded["losses"], everyone)
    nadir: Tensor = case.steps[-1]["state_after"]["nadir_vector"]
    torch.testing.assert_close(balancer.nadir, nadir, rtol=1e-12, atol=0.0)
