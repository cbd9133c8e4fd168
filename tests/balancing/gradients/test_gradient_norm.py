from __future__ import annotations

import pytest
import torch

from mtl_lightning.balancing.gradients.gradient_norm import GradientNormBalancing
from tests.balancing.rows import DEGENERATE, everyone, random_rows, some_losses, update


def test_by_hand() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 0.0]])
    balancer = GradientNormBalancing(3)
    weights = balancer.task_weights(rows @ rows.T, torch.ones(3), everyone())
    torch.testing.assert_close(weights, torch.tensor([4 / 5, 4.0, 4 / 6]))
    torch.testing.assert_close(update(balancer, rows, torch.ones(3)), torch.tensor([2.4 + 4, 3.2 + 4]))


def test_all_weighted_gradients_are_as_long_as_the_mean() -> None:
    rows = random_rows(5) * torch.tensor([[1e-6], [1e-3], [1.0], [1e3], [1e6]])
    weights = GradientNormBalancing(5).task_weights(rows @ rows.T, some_losses(5), everyone(5))
    expected = rows.norm(dim=1).mean().expand(5)
    torch.testing.assert_close((weights.unsqueeze(1) * rows).norm(dim=1), expected, rtol=1e-9, atol=0)


def test_a_gradient_of_zero_counts_for_nothing() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
    weights = GradientNormBalancing(3).task_weights(rows @ rows.T, torch.ones(3), everyone())
    assert weights.tolist() == pytest.approx([1.5, 1.0, 0.75])


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows(name: str) -> None:
    rows = DEGENERATE[name]
    for dtype in (torch.float64, torch.float32):
        gradient = update(GradientNormBalancing(3), rows.to(dtype), some_losses().to(dtype))
        assert gradient.isfinite().all()
        assert gradient.any() == rows.any()


def test_follows_the_scale_of_the_losses() -> None:
    rows, balancer = random_rows(), GradientNormBalancing(3)
    assert balancer.scale == "linear"
    expected = 7 * update(balancer, rows, some_losses())
    torch.testing.assert_close(update(balancer, 7 * rows, 7 * some_losses()), expected)


def test_one_task_keeps_its_gradient() -> None:
    rows = random_rows(1)
    torch.testing.assert_close(update(GradientNormBalancing(1), rows, some_losses(1)), rows[0])


def test_an_absent_task_is_left_out_and_the_order_does_not_matter() -> None:
    rows, losses, present = random_rows(4), some_losses(4), torch.tensor([True, False, True, True])
    expected = update(GradientNormBalancing(3), rows[present], losses[present])
    torch.testing.assert_close(update(GradientNormBalancing(4), rows, losses, present), expected)
    order = torch.tensor([3, 1, 0, 2])
    found = update(GradientNormBalancing(4), rows[order], losses[order], present[order])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_has_no_state() -> None:
    assert GradientNormBalancing(3).state_dict() == {}
