"""Aligned-MTL: singular values made equal, and torchjd's and LibMTL's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import AlignedMTL as TorchJDAlignedMTL

from mtl_lightning.balancing.gradients.aligned_mtl import AlignedMTL
from mtl_lightning.types import ConfigurationError
from tests.balancing.rows import DEGENERATE, balanced_rows, everyone, random_rows, some_losses, update
from tests.golden import Case, cases

MODES: list[Any] = ["min", "median", "rmse"]


def combined(rows: Tensor, **options: Any) -> Tensor:
    return update(AlignedMTL(len(rows), **options), rows, some_losses(len(rows)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("tasks", "size"), [(1, 4), (3, 10), (8, 40), (6, 3)])
def test_like_torchjd(tasks: int, size: int, mode: Any) -> None:
    rows = random_rows(tasks, size=size)
    torch.testing.assert_close(combined(rows, scale_mode=mode), TorchJDAlignedMTL(scale_mode=mode)(rows))
    preferred = [float(k + 1) for k in range(tasks)]
    theirs = TorchJDAlignedMTL(torch.tensor(preferred).double(), scale_mode=mode)
    torch.testing.assert_close(combined(rows, scale_mode=mode, pref_vector=preferred), theirs(rows))


def test_the_aligned_gradients_are_orthogonal_and_equally_long() -> None:
    rows = random_rows(3)
    aligned = torch.stack([combined(rows, pref_vector=[float(k == i) for k in range(3)]) for i in range(3)])
    smallest = torch.linalg.svdvals(rows)[-1]
    torch.testing.assert_close(aligned @ aligned.T, smallest**2 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("case", cases("Aligned_MTL"), ids=str)
def test_like_libmtl(case: Case) -> None:
    for step in case.steps:
        rows = step["J_rep"].sum(1) if case.on_features else balanced_rows(case, step)  # LibMTL sums over the batch
        balancer = AlignedMTL(case.tasks, pref_vector=[1.0] * case.tasks)
        found = balancer.task_weights(rows @ rows.T, step["losses"], everyone(case.tasks)) @ step["J"]
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_gradients_do_no_harm(dtype: torch.dtype) -> None:
    rows = random_rows(3, size=500).to(dtype)
    rows[2] = rows[1]
    assert combined(rows).norm() > 0.5 * combined(rows[:2]).norm()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_finite_updates(name: str, mode: Any) -> None:
    found = combined(DEGENERATE[name], scale_mode=mode)
    assert found.isfinite().all()
    assert (found.norm() > 0) == (name != "all zero")


def test_absent_tasks_leave_their_preferences() -> None:
    rows = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    present = torch.tensor([True, False, True])
    found = update(AlignedMTL(3, pref_vector=[1.0, 2.0, 3.0]), rows, some_losses(), present)
    torch.testing.assert_close(found.tolist(), [1.0, 0.0, 3.0])
    found = update(AlignedMTL(3), rows, some_losses(), present)
    torch.testing.assert_close(found.tolist(), [0.5, 0.0, 0.5])


@pytest.mark.parametrize("options", [{"pref_vector": [1.0]}, {"pref_vector": [0.0, 0.0]}, {"scale_mode": "max"}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected .* found"):
        AlignedMTL(2, **options)
