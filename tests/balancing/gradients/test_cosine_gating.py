"""Cosine gating: by hand, the primary task by name and absent, undefined cosines."""

from __future__ import annotations

import pytest
import torch

from mtl_lightning.balancing.gradients.cosine_gating import CosineGating
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.matrices import DOUBLE, all_present, check_finite, check_resume, random_rows, update

ROWS = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-0.1, 2.0], [0.0, 1.0]], dtype=DOUBLE)  # cosines 1, 0.6, < 0, 0


def weights(balancer: CosineGating, rows: torch.Tensor, present: torch.Tensor | None = None) -> list[float]:
    present = all_present(balancer.num_tasks) if present is None else present
    found: list[float] = balancer.weights(rows @ rows.T, torch.ones(len(rows)), present).tolist()
    return found


def test_gates_by_hand() -> None:
    assert weights(CosineGating(4), ROWS) == [1.0, 1.0, 0.0, 1.0]
    assert weights(CosineGating(4, weighted=True), ROWS) == pytest.approx([1.0, 0.6, 0.0, 0.0])
    torch.testing.assert_close(update(CosineGating(4), ROWS), ROWS[0] + ROWS[1] + ROWS[3])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_primary_loss_does_not_rise(weighted: bool) -> None:
    for seed in range(20):
        rows = random_rows(5, seed=seed)
        assert update(CosineGating(5, primary=3, weighted=weighted), rows) @ rows[3] >= rows[3] @ rows[3] - 1e-9


@pytest.mark.parametrize("primary", [2, "c"])
def test_another_primary_task(primary: str | int) -> None:
    balancer = CosineGating(4, primary=primary)
    balancer.bind(dict.fromkeys("abcd", Likelihood(0.5, 0.5, "log_var")))
    assert weights(balancer, ROWS) == [0.0, 1.0, 1.0, 1.0]
    absent = torch.tensor([False, True, True, True])
    assert weights(balancer, ROWS[1:], absent) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("weighted", [False, True])
def test_without_the_primary_task_all_pass(weighted: bool) -> None:
    balancer = CosineGating(4, weighted=weighted)
    assert weights(balancer, ROWS[1:], torch.tensor([False, True, True, True])) == [1.0, 1.0, 1.0]


def test_no_primary_gradient() -> None:
    rows = ROWS * torch.tensor([[0.0], [1.0], [1.0], [1.0]], dtype=DOUBLE)
    assert weights(CosineGating(4), rows) == [1.0, 1.0, 1.0, 1.0]
    assert weights(CosineGating(4, weighted=True), rows) == [1.0, 0.0, 0.0, 0.0]


def test_the_scale_does_not_matter() -> None:
    balancer = CosineGating(4, weighted=True)
    assert weights(balancer, 1e-30 * ROWS) == pytest.approx(weights(balancer, 1e30 * ROWS))


def test_contract() -> None:
    check_resume(CosineGating)
    check_finite(CosineGating)
    check_finite(lambda tasks: CosineGating(tasks, weighted=True))


def test_no_task_is_refused_as_primary() -> None:
    with pytest.raises(ConfigurationError, match=r"CosineGating: expected `primary` to be .* from 0 to 3, found 4"):
        CosineGating(4, primary=4)
