"""MGDA: the shortest convex combination, by its optimality conditions, and LibMTL's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import MGDA as TorchJDMGDA  # noqa: N811

from mtl_lightning.balancing.gradients.mgda import MGDA
from mtl_lightning.types import ConfigurationError
from tests.balancing.rows import DEGENERATE, everyone, random_rows, some_losses
from tests.golden import Case, cases

CASES = cases("MGDA")
NORMALIZATIONS = ["none", "l2", "loss", "loss+"]


def weights(balancer: MGDA, rows: Tensor, losses: Tensor | None = None) -> Tensor:
    losses = some_losses(len(rows)) if losses is None else losses
    return balancer.task_weights(rows @ rows.T, losses, everyone(len(rows)))


def normalized(rows: Tensor, losses: Tensor, how: str) -> Tensor:
    lengths = rows.norm(dim=1) if how in ("l2", "loss+") else torch.ones_like(losses)
    divisors = lengths * losses if how in ("loss", "loss+") else lengths
    return torch.diag(1 / divisors) @ rows


def check_optimal(rows: Tensor, found: Tensor, tolerance: float = 1e-9) -> None:
    """The shortest point of the hull: no corner is on the near side of it."""
    point = found @ rows
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum().item(), 1.0)
    assert ((rows @ point) >= point @ point - tolerance * rows.norm(dim=1).max() ** 2).all()


def test_two_tasks_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(weights(MGDA(2), rows).tolist(), [0.8, 0.2])
    acute = torch.tensor([[1.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    assert weights(MGDA(2), acute).tolist() == [1.0, 0.0]
    assert weights(MGDA(2), torch.ones(2, 3, dtype=torch.float64)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("how", NORMALIZATIONS)
@pytest.mark.parametrize(("tasks", "size"), [(1, 4), (2, 4), (3, 10), (5, 3), (20, 30), (60, 400)])
def test_the_point_is_the_shortest(tasks: int, size: int, how: Any) -> None:
    rows, losses = random_rows(tasks, size=size), some_losses(tasks)
    found = weights(MGDA(tasks, normalization=how), rows, losses)
    check_optimal(normalized(rows, losses, how), found)


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_normalized_gradients_can_be_combined(how: Any) -> None:
    rows, losses = random_rows(4), some_losses(4)
    found = weights(MGDA(4, normalization=how), rows, losses) @ normalized(rows, losses, how)
    other = weights(MGDA(4, normalization=how, combine="normalized"), rows, losses) @ rows
    torch.testing.assert_close(found, other)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_like_libmtl(case: Case) -> None:
    how = case.hyper["mgda_gn"]
    balancer = MGDA(case.tasks, normalization=how, combine="original" if case.on_features else "normalized")
    for step in case.steps:
        rows = step["J_rep"].sum(1) if case.on_features else step["J"]  # LibMTL sums over the batch
        found = weights(balancer, rows, step["losses"])
        theirs = torch.linalg.lstsq(step["J"].T, step["grad_shared"].unsqueeze(1)).solution.squeeze(1)
        divisors = torch.ones_like(found) if case.on_features else weights_divisors(step, how)
        scaled = normalized(rows, step["losses"], how)
        ours, reference = (scaled.T @ (w * divisors) for w in (found, theirs))
        check_optimal(scaled, found * divisors)
        assert ours.norm() <= reference.norm() * (1 + 1e-9)
        if reference.norm() ** 2 - ours.norm() ** 2 < 1e-7 and reference.norm() > 1e-3:  # else theirs stopped too early
            torch.testing.assert_close(found * divisors, theirs * divisors, rtol=0, atol=1e-3)


def weights_divisors(step: dict[str, Tensor], how: str) -> Tensor:
    divisors: Tensor = step["J"].norm(dim=1) / normalized(step["J"], step["losses"], how).norm(dim=1)
    return divisors


def test_most_of_libmtls_updates_are_compared_closely() -> None:
    close = [
        (weights(MGDA(case.tasks, normalization=case.hyper["mgda_gn"], combine="normalized"), s["J"], s["losses"]), s)
        for case in CASES
        if not case.on_features
        for s in case.steps
    ]
    differences = [float((w @ s["J"] - s["grad_shared"]).norm() / s["grad_shared"].norm()) for w, s in close]
    assert sum(d < 5e-4 for d in differences) >= len(differences) - 1  # all but one, where LibMTL stopped too early
    assert sum(d < 1e-9 for d in differences) >= 20


@pytest.mark.parametrize("seed", range(4))
def test_never_longer_than_torchjds(seed: int) -> None:
    rows = random_rows(5, seed=seed)
    ours, theirs = weights(MGDA(5), rows) @ rows, TorchJDMGDA(epsilon=1e-5, max_iters=2000)(rows)
    assert ours.norm() <= theirs.norm() + 1e-12
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-2)


@pytest.mark.parametrize("how", NORMALIZATIONS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_finite_weights(name: str, how: Any) -> None:
    found = weights(MGDA(3, normalization=how), DEGENERATE[name])
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum().item(), 1.0)


def test_a_zero_gradient_takes_all_the_weight() -> None:
    rows = random_rows(4)
    rows[[1, 3]] = 0
    assert weights(MGDA(4), rows).tolist() == [0, 0.5, 0, 0.5]


@pytest.mark.parametrize("tasks", [2, 3])
def test_a_loss_of_zero_has_no_weight_if_losses_divide(tasks: int) -> None:
    losses = torch.arange(tasks, dtype=torch.float64)
    found = weights(MGDA(tasks, normalization="loss"), random_rows(tasks), losses)
    assert found[0] == 0
    torch.testing.assert_close(found.sum().item(), 1.0)


def test_a_hull_around_zero_gives_zero() -> None:
    rows = random_rows(6, size=20)
    rows = rows - rows.mean(0)
    assert (weights(MGDA(6), rows) @ rows).norm() < 1e-6


def test_equal_gradients_share_equally() -> None:
    rows = random_rows(1).repeat(4, 1)
    torch.testing.assert_close(weights(MGDA(4), rows), torch.full((4,), 0.25, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"normalization": "l1"}, {"combine": "both"}, {"level": "heads"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected .* found"):
        MGDA(2, **options)
