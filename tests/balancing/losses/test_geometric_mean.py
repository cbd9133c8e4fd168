"""The geometric mean: by hand, many small losses, a loss of zero, torchjd's and LibMTL's."""

from __future__ import annotations

import pytest
import torch
import torchjd.scalarization

from mtl_lightning.balancing.losses.geometric_mean import GeometricMean
from tests.balancing.loss_cases import LOSSES, assert_golden, flags, weights_of
from tests.golden import Case, cases

EXACT = 1e-30  # below the rounding error of any loss here


def test_by_hand() -> None:
    balancer = GeometricMean(3, eps=EXACT)
    assert balancer(LOSSES).item() == pytest.approx(2.0, rel=1e-14)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 6], rel=1e-14)


def test_of_the_present() -> None:
    balancer = GeometricMean(3, eps=EXACT)
    assert balancer(LOSSES, flags(0, 1, 1)).item() == pytest.approx(8**0.5, rel=1e-14)
    assert weights_of(balancer, LOSSES, flags(0, 0, 1)).tolist() == pytest.approx([0.0, 0.0, 1.0], rel=1e-14)


def test_many_losses_neither_underflow_nor_overflow() -> None:
    for size in (1e-6, 1e6):  # whose 64th powers no float32 holds
        losses = torch.full((64,), size)
        weights = weights_of(GeometricMean(64, eps=EXACT), losses)
        torch.testing.assert_close(weights, torch.full((64,), 1 / 64), rtol=1e-4, atol=0.0)


def test_a_loss_of_zero_has_a_large_finite_weight_and_leaves_the_others_small_ones() -> None:
    losses = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    balancer = GeometricMean(3, eps=1e-6)
    mean = (1e-6 * 1.0 * 4.0) ** (1 / 3)
    assert balancer(losses).item() == pytest.approx(mean, rel=1e-5)
    assert weights_of(balancer, losses).tolist() == pytest.approx([mean / 3e-6, mean / 3, mean / 12], rel=1e-5)


def test_agrees_with_torchjd() -> None:
    losses = torch.rand(5, dtype=torch.float64) + 0.1
    torch.testing.assert_close(
        GeometricMean(5, eps=EXACT)(losses), torchjd.scalarization.GeometricMean()(losses), rtol=1e-14, atol=0.0
    )


@pytest.mark.parametrize("case", cases("GLS"), ids=str)
def test_libmtl(case: Case) -> None:
    balancer = GeometricMean(case.tasks, eps=EXACT)
    for recorded in case.steps:
        assert_golden(recorded, weights_of(balancer, recorded["losses"]))


def test_the_default_eps_hardly_matters_for_ordinary_losses() -> None:
    torch.testing.assert_close(GeometricMean(3)(LOSSES), GeometricMean(3, eps=EXACT)(LOSSES), rtol=1e-8, atol=0.0)
