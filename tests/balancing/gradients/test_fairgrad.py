"""FairGrad: its equation at every alpha, and LibMTL's numbers where LibMTL solves it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.gradients.fairgrad import FairGrad, alpha_fair
from mtl_lightning.balancing.gradients.mgda import min_norm_point
from mtl_lightning.balancing.gradients.nash_mtl import bargain
from tests.balancing.rows import DEGENERATE, everyone, random_rows, some_losses, update
from tests.golden import Case, cases

CASES = cases("FairGrad")
ALPHAS = [0.2, 0.5, 1.0, 2.0, 10.0]


def residual(gramian: Tensor, weights: Tensor, alpha: float) -> float:
    """The largest relative difference of the equation's sides."""
    return float(((gramian @ weights) * weights ** (1 / alpha) - 1).abs().max())


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("tasks", "size"), [(1, 4), (2, 4), (3, 10), (8, 50), (60, 400)])
def test_the_equation_holds(tasks: int, size: int, alpha: float) -> None:
    rows = random_rows(tasks, size=size)
    found = alpha_fair(rows @ rows.T, alpha)
    assert (found > 0).all()
    assert residual(rows @ rows.T, found, alpha) < 1e-6


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_equation_holds_in_any_unit(alpha: float, unit: float) -> None:
    rows = unit * random_rows(5, size=20)
    assert residual(rows @ rows.T, alpha_fair(rows @ rows.T, alpha), alpha) < 1e-6


def test_nearly_dependent_gradients_are_no_difficulty() -> None:
    rows = random_rows(1) + 1e-4 * random_rows(6, seed=1)
    for alpha in ALPHAS:
        assert residual(rows @ rows.T, alpha_fair(rows @ rows.T, alpha), alpha) < 1e-6


def test_one_task_by_hand() -> None:
    rows = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    for alpha in ALPHAS:
        found = update(FairGrad(1, alpha=alpha), rows, some_losses(1))
        torch.testing.assert_close(found, rows[0] / 5 ** (2 * alpha / (1 + alpha)))


def test_alpha_one_is_the_bargain() -> None:
    rows = random_rows(4, size=12)
    torch.testing.assert_close(alpha_fair(rows @ rows.T, 1.0), bargain(rows @ rows.T), rtol=1e-9, atol=0)


def test_alpha_near_zero_is_the_sum_in_direction() -> None:
    rows = torch.tensor([[1.0, 0.1], [0.3, 1.0]], dtype=torch.float64)
    found = alpha_fair(rows @ rows.T, 1e-3)
    torch.testing.assert_close(found / found.mean(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-3)


def test_a_large_alpha_is_fair_to_the_worst() -> None:
    rows = random_rows(3) * torch.tensor([[1.0], [3.0], [9.0]], dtype=torch.float64)
    directions = [alpha_fair(rows @ rows.T, alpha) @ rows for alpha in (0.5, 2.0, 50.0)]
    worst = [float((rows @ d).min() / d.norm()) for d in directions]
    best = float((min_norm_point(rows @ rows.T, torch.ones(3, dtype=torch.float64)) @ rows).norm())
    assert worst[0] < worst[1] < worst[2] <= best
    assert worst[2] > 0.95 * best


@pytest.mark.parametrize("case", CASES, ids=str)
def test_like_libmtl_where_libmtl_solves_the_equation(case: Case) -> None:
    alpha = case.hyper["FairGrad_alpha"]
    solved = 0
    for step in case.steps:
        gramian = step["J"] @ step["J"].T
        found = FairGrad(case.tasks, alpha=alpha).task_weights(gramian, step["losses"], everyone(case.tasks))
        assert residual(gramian, found, alpha) < 1e-6
        if residual(gramian, step["head_multiplier"], alpha) < 1e-6:
            solved += 1
            torch.testing.assert_close(found @ step["J"], step["grad_shared"], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found, step["head_multiplier"], rtol=1e-4, atol=0)
    assert solved == 3 or "scales" in case.name


@pytest.mark.parametrize("seed", range(3))
def test_like_torchjd(seed: int) -> None:
    pytest.importorskip("scipy")
    from torchjd.aggregation import FairGrad as TorchJDFairGrad

    rows = random_rows(4, seed=seed, size=20)
    torch.testing.assert_close(
        update(FairGrad(4, alpha=2.0), rows, some_losses(4)), TorchJDFairGrad(2.0)(rows), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("alpha", [0.01, *ALPHAS, 100.0])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_finite_updates(name: str, alpha: float) -> None:
    found = alpha_fair(DEGENERATE[name] @ DEGENERATE[name].T, alpha)
    assert found.isfinite().all()
    assert (found > 0).all()


def test_a_zero_gradient_leaves_the_others_as_they_are() -> None:
    rows = DEGENERATE["zero row"]
    found = FairGrad(3, alpha=2.0).task_weights(rows @ rows.T, some_losses(), everyone())
    others = rows[[0, 2]]
    torch.testing.assert_close(found[[0, 2]], alpha_fair(others @ others.T, 2.0), rtol=1e-7, atol=0)
    torch.testing.assert_close(found[1], found[[0, 2]].mean())
