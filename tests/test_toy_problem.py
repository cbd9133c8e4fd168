"""Where balancers end on the two-task problem of the literature, from its five starts at once.

The full runs, marked slow, are the published ones: 35,000 steps of Adam at a rate of 1e-3. The short ones are the same
motion with time seven times as fast: seven times the rate, and averages that forget seven times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing import IMTLG, MGDA, Balancer, CAGrad, PCGrad
from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.data import TwoTaskLandscape

Makers: TypeAlias = Mapping[str, Callable[[int], Balancer]]

BOTTOM = -8.36  # x2 of the Pareto-optimal points
FIRST: Makers = {"sum": Balancer, "MGDA": MGDA, "IMTLG": IMTLG}
OTHERS: Makers = {"PCGrad": PCGrad, "CAGrad": partial(CAGrad, c=0.4)}


@dataclass(frozen=True)
class Descent:
    """How many steps of Adam, at which rate, and how fast its averages forget."""

    steps: int
    rate: float
    betas: tuple[float, float]


SHORT = Descent(5_000, 7e-3, (0.3, 0.993))
FULL = Descent(35_000, 1e-3, (0.9, 0.999))


def ends(makers: Makers, scale: float, descent: Descent) -> dict[str, Tensor]:
    """Return each method's five end points (5, 2). All points are entries of one tensor, which Adam keeps apart."""
    landscape = TwoTaskLandscape(scale)
    points = landscape.starts().repeat(len(makers), 1, 1).flatten(0, 1).requires_grad_()
    balancers = [make(2) for make in makers.values() for _ in landscape.starts()]
    optimizer = torch.optim.Adam([points], lr=descent.rate, betas=descent.betas)
    present = torch.ones(2, dtype=torch.bool)
    for _ in range(descent.steps):
        rows = zip(balancers, *landscape.differentiate(points), strict=True)
        points.grad = torch.stack(
            [
                balancer.gradient(jacobian, losses, present)
                if isinstance(balancer, GradientBalancer)
                else jacobian.sum(0)
                for balancer, losses, jacobian in rows
            ]
        )
        optimizer.step()
    return dict(zip(makers, points.detach().view(len(makers), 5, 2), strict=True))


# ---------------------------------------------------------------------------------------- the first loss scaled by 0.1
@pytest.fixture(scope="module", params=[SHORT, pytest.param(FULL, marks=pytest.mark.slow)], ids=["short", "full"])
def ended(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return ends(FIRST, 0.1, request.param)


@pytest.fixture(scope="module")
def others_ended() -> dict[str, Tensor]:
    return ends(OTHERS, 0.1, FULL)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["MGDA", "IMTLG"])
def test_mgda_and_imtlg_reach_the_pareto_set_from_every_start(ended: dict[str, Tensor], method: str) -> None:
    x1, x2 = ended[method].unbind(1)
    assert ((x2 - BOTTOM).abs() < 0.1).all(), ended[method]
    assert (x1.abs() < 7.05).all(), ended[method]


def test_the_sum_stays_on_the_plateau_from_the_third_start(ended: dict[str, Tensor]) -> None:
    x1, x2 = ended["sum"][2].tolist()
    assert x2 > 0
    assert x1 == pytest.approx(5, abs=0.1)


def test_the_sum_ends_beside_the_optimum_of_the_larger_loss(ended: dict[str, Tensor]) -> None:
    for start in (1, 3, 4):
        assert ended["sum"][start].tolist() == pytest.approx([-5.727, -8.409], abs=0.02)


def test_mgda_and_imtlg_end_where_the_published_runs_do(ended: dict[str, Tensor]) -> None:
    published = {"MGDA": [-2.0, 6.135, 6.995, -4.246, 6.996], "IMTLG": [-2.192, -0.085, 2.375, -3.392, 5.287]}
    for method, expected in published.items():  # loosely: the set is flat along x1
        assert ended[method][:, 0].tolist() == pytest.approx(expected, abs=0.4)


def test_imtlg_ends_more_in_the_middle_than_mgda_and_the_sum(ended: dict[str, Tensor]) -> None:
    distances = {method: float(points[[1, 2, 3, 4], 0].abs().mean()) for method, points in ended.items()}
    assert distances["IMTLG"] < 0.6 * min(distances["MGDA"], distances["sum"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["PCGrad", "CAGrad"])
def test_pcgrad_and_cagrad_stay_on_the_plateau_from_the_third_start(
    others_ended: dict[str, Tensor], method: str
) -> None:
    assert others_ended[method][2, 1] > 0
    reached = others_ended[method][[1, 3, 4]]
    assert ((reached[:, 1] - BOTTOM).abs() < 0.1).all(), reached


@pytest.mark.slow
def test_cagrad_ends_where_the_sum_does(others_ended: dict[str, Tensor]) -> None:
    for start in (0, 1, 3, 4):  # from the first start it gets there last, and is still going down
        assert float(others_ended["CAGrad"][start, 0]) == pytest.approx(-5.727, abs=0.1)


# --------------------------------------------------------------------------------------------------- losses as they are
@pytest.mark.parametrize("descent", [SHORT, pytest.param(FULL, marks=pytest.mark.slow)], ids=["short", "full"])
def test_the_sum_of_equally_large_losses_fails_from_two_starts(descent: Descent) -> None:
    found = ends({"sum": Balancer}, 1.0, descent)["sum"]
    for start in (1, 3, 4):
        assert found[start].tolist() == pytest.approx([0, -8.355], abs=0.02)
    assert (found[[0, 2], 1] > 0).all()
