"""UPGrad and DualProj: exact projections, and torchjd's and LibMTL's numbers with their regularization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.gradients.upgrad import DualProj, UPGrad
from mtl_lightning.types import ConfigurationError
from tests.balancing.rows import DEGENERATE, random_rows, some_losses, update
from tests.golden import Case, cases

CLASSES = [UPGrad, DualProj]


def combined(cls: Any, rows: Tensor, **options: Any) -> Tensor:
    return update(cls(len(rows), **options), rows, some_losses(len(rows)))


def projection(rows: Tensor, vector: Tensor) -> Tensor:
    """The nearest direction that harms no task, by alternating projections (Dykstra's algorithm)."""
    current, corrections = vector.clone(), torch.zeros_like(rows)
    units = rows / rows.norm(dim=1, keepdim=True)
    for _ in range(3000):
        for k, unit in enumerate(units):
            shifted = current + corrections[k]
            current = shifted - (shifted @ unit).clamp(max=0) * unit
            corrections[k] = shifted - current
    return current


def test_projections_are_those_of_another_algorithm() -> None:
    rows = random_rows(4, size=6)
    projected = torch.stack([projection(rows, row) for row in rows])
    torch.testing.assert_close(combined(UPGrad, rows), projected.mean(0), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(combined(DualProj, rows), projection(rows, rows.mean(0)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("tasks", "size"), [(1, 4), (2, 4), (3, 10), (8, 5), (30, 200), (60, 300)])
@pytest.mark.parametrize("cls", CLASSES)
def test_no_task_is_harmed(cls: Any, tasks: int, size: int) -> None:
    for seed in range(2):
        rows = random_rows(tasks, seed=seed, size=size)
        assert (rows @ combined(cls, rows)).min() > -1e-7


@pytest.mark.parametrize("cls", CLASSES)
def test_without_conflict_it_is_the_mean(cls: Any) -> None:
    rows = random_rows(4).abs()
    torch.testing.assert_close(combined(cls, rows), rows.mean(0))
    torch.testing.assert_close(
        combined(cls, rows, pref_vector=[1.0, 0.0, 2.0, 0.5]), rows[0] + 2 * rows[2] + rows[3] / 2
    )


def test_two_tasks_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    # g_1 becomes (1/2, 1/2), g_2 becomes (0, 1), their mean (0, 1/2)
    torch.testing.assert_close(combined(UPGrad, rows).tolist(), [0.25, 0.75], rtol=0, atol=1e-9)
    torch.testing.assert_close(combined(DualProj, rows).tolist(), [0.0, 0.5], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["UPGrad", "DualProj"])
@pytest.mark.parametrize("prefers", [None, [0.1, 0.5, 0.2, 1.0, 0.3]])
@pytest.mark.parametrize("seed", range(3))
def test_like_torchjd(name: str, prefers: list[float] | None, seed: int) -> None:
    pytest.importorskip("quadprog")
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = getattr(aggregation, name)(
        pref_vector=None if prefers is None else torch.tensor(prefers, dtype=torch.float64)
    )
    ours = UPGrad if name == "UPGrad" else DualProj
    rows = random_rows(5, seed=seed)
    found = combined(ours, rows, pref_vector=prefers, regularization=1e-4)
    torch.testing.assert_close(found, theirs(rows), rtol=1e-8, atol=1e-8)
    exact = combined(ours, random_rows(5, seed=seed, size=200), pref_vector=prefers)
    torch.testing.assert_close(exact, theirs(random_rows(5, seed=seed, size=200)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", cases("UPGrad"), ids=str)
def test_like_libmtl(case: Case) -> None:
    assert case.hyper["UPGrad_norm_eps"] == case.hyper["UPGrad_reg_eps"] == 1e-4
    for step in case.steps:
        found = update(UPGrad(case.tasks, regularization=1e-4), step["J"], step["losses"])
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-9, atol=1e-9 * step["J"].abs().max().item())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_small_gradients_are_treated_as_large_ones(cls: Any, unit: float) -> None:
    rows = random_rows(4)
    torch.testing.assert_close(combined(cls, unit * rows), unit * combined(cls, rows), rtol=1e-7, atol=0)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("regularization", [0.0, 1e-4])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_finite_updates(cls: Any, name: str, regularization: float) -> None:
    rows = DEGENERATE[name]
    found = combined(cls, rows, regularization=regularization)
    assert found.isfinite().all()
    if not regularization:
        assert ((rows @ found) >= -1e-8 * rows.norm(dim=1) * rows.norm(dim=1).max()).all()
    assert (found.norm() > 0) == (name != "all zero")


@pytest.mark.parametrize("cls", CLASSES)
def test_float32_rows_that_are_alike_give_finite_updates(cls: Any) -> None:
    rows = random_rows(6, size=300).float()
    rows[3], rows[4] = rows[0], -rows[1]
    assert combined(cls, rows).isfinite().all()
    assert combined(cls, rows).norm() < rows.norm()


@pytest.mark.parametrize("cls", CLASSES)
def test_absent_tasks_leave_their_preferences(cls: Any) -> None:
    rows = random_rows(4).abs()
    present = torch.tensor([True, False, True, True])
    balancer = cls(4, pref_vector=[1.0, 5.0, 2.0, 3.0])
    found = update(balancer, rows, some_losses(4), present)
    torch.testing.assert_close(found, rows[0] + 2 * rows[2] + 3 * rows[3])
    torch.testing.assert_close(update(cls(4), rows, some_losses(4), present), rows[present].mean(0))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "options", [{"pref_vector": [1.0]}, {"pref_vector": [-1.0, 1.0]}, {"pref_vector": [0, 0]}, {"regularization": -1.0}]
)
def test_wrong_options_are_refused(cls: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected .* found"):
        cls(2, **options)
