"""CAGrad: its optimality conditions, scale, the edge of the radius, and LibMTL's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.gradients.cagrad import CAGrad
from mtl_lightning.types import ConfigurationError
from tests.balancing.rows import DEGENERATE, random_rows, some_losses, update
from tests.golden import Case, cases

DIVISORS: list[Any] = ["none", "1+c^2", "1+c"]  # LibMTL's rescale 0, 1, 2


def combined(rows: Tensor, c: float) -> Tensor:
    return update(CAGrad(len(rows), c=c), rows, some_losses(len(rows)))


def check_optimal(rows: Tensor, c: float, tolerance: float = 1e-8) -> None:
    """d is within the radius, and its worst progress reaches a bound that no direction within it exceeds."""
    found, mean = combined(rows, c), rows.mean(0)
    assert (found - mean).norm() <= c * mean.norm() * (1 + 1e-6)
    added = torch.linalg.lstsq(rows.T, (found - mean).unsqueeze(1)).solution.squeeze(1)
    assert (added > -1e-6 * added.abs().max()).all()
    point = (added.clamp(min=0) / added.clamp(min=0).sum()) @ rows
    bound = point @ mean + c * mean.norm() * point.norm()  # of min_k g_k d, for any d within the radius
    assert (rows @ found).min() >= bound - tolerance * rows.norm(dim=1).max() ** 2


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9, 1.5])
@pytest.mark.parametrize(("tasks", "size"), [(1, 4), (2, 4), (3, 10), (8, 60), (40, 300)])
def test_the_worst_progress_is_the_best_possible(tasks: int, size: int, c: float) -> None:
    for seed in range(3):
        check_optimal(random_rows(tasks, seed=seed, size=size), c)


def test_one_task_by_hand() -> None:
    rows = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(combined(rows, 0.5), 1.5 * rows[0])


def test_two_orthogonal_tasks_by_hand() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(combined(rows, 0.5).tolist(), [1.5, 1.5])  # the mean (1, 1), longer by a half
    torch.testing.assert_close(combined(rows, 0.0).tolist(), [1.0, 1.0])


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e6])
def test_small_gradients_are_treated_as_large_ones(unit: float) -> None:
    rows = random_rows(4, size=10)
    torch.testing.assert_close(combined(unit * rows, 0.5), unit * combined(rows, 0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("divide_by", "factor"), list(zip(DIVISORS, [1.0, 1.16, 1.4], strict=True)))
def test_the_result_is_divided(divide_by: Any, factor: float) -> None:
    rows = random_rows(3)
    found = update(CAGrad(3, c=0.4, divide_by=divide_by), rows, some_losses())
    torch.testing.assert_close(found * factor, combined(rows, 0.4))


@pytest.mark.parametrize("case", cases("CAGrad"), ids=str)
def test_like_libmtl(case: Case) -> None:
    c, divide_by = case.hyper["calpha"], DIVISORS[case.hyper["rescale"]]
    for step in case.steps:
        found = update(CAGrad(case.tasks, c=c, divide_by=divide_by), step["J"], step["losses"])
        theirs = step["grad_shared"]
        assert (step["J"] @ found).min() >= (step["J"] @ theirs).min() - 1e-6 * theirs.norm()
        if "scales" not in case.name:  # where the reference is off
            assert (found - theirs).norm() <= 1e-3 * theirs.norm()


@pytest.mark.parametrize("seed", range(3))
def test_like_torchjd(seed: int) -> None:
    pytest.importorskip("cvxpy")
    pytest.importorskip("clarabel")
    from torchjd.aggregation import CAGrad as TorchJDCAGrad

    rows = random_rows(4, seed=seed)
    torch.testing.assert_close(combined(rows, 0.5), TorchJDCAGrad(0.5)(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_like_a_general_solver(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rows = random_rows(4, seed=seed)
    mean = rows.mean(0)

    def bound(w: Any) -> float:
        point = torch.from_numpy(w) @ rows
        return float(point @ mean + 0.5 * mean.norm() * point.norm())

    start = torch.full((4,), 0.25, dtype=torch.float64).numpy()
    constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = optimize.minimize(bound, start, bounds=[(0, 1)] * 4, constraints=constraint, tol=1e-12)
    torch.testing.assert_close((rows @ combined(rows, 0.5)).min().item(), best.fun, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("c", [0.5, 1.5])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_finite_updates(name: str, c: float) -> None:
    rows = DEGENERATE[name]
    found = combined(rows, c)
    assert found.isfinite().all()
    assert (found - rows.mean(0)).norm() <= c * rows.mean(0).norm() * (1 + 1e-6)


def test_a_zero_gradient_does_not_stop_the_others() -> None:
    rows = DEGENERATE["zero row"]
    found = combined(rows, 0.5)
    assert (rows[[0, 2]] @ found).min() > 0
    assert torch.linalg.lstsq(rows[[0, 2]].T, found.unsqueeze(1)).solution.abs().max() < 3


def test_a_hull_around_zero_gives_the_nearest_that_harms_nobody() -> None:
    rows = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [1.0, 0.0], [0.5, -0.1]], dtype=torch.float64)
    found = combined(rows, 2.0)
    torch.testing.assert_close(found.tolist(), [0.0, 0.0], rtol=0, atol=1e-6)
    opposed = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    found = combined(opposed, 0.9)  # the mean (1/3, 1/3) without what is opposed
    torch.testing.assert_close(found.tolist(), [0.0, 1 / 3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"c": -0.1}, {"c": float("nan")}, {"divide_by": "2"}, {"level": "heads"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected .* found"):
        CAGrad(2, **options)
