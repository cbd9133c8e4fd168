"""Losses divided by their running mean: by hand, absent tasks, updates that are skipped."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.losses.ema_normalization import EMANormalization
from tests.balancing.loss_cases import LOSSES, flags, reloaded, weights_of


def update(balancer: EMANormalization, losses: Tensor, present: Tensor | None = None) -> Tensor:
    """Make an update; return the weights (T,) that it was made with."""
    weights = weights_of(balancer, losses, present)
    balancer.after_update(lambda: losses)
    return weights


def exact(**options: Any) -> EMANormalization:
    return EMANormalization(3, **{"eps": 1e-30, **options}).double()


def test_the_first_loss_is_its_own_mean() -> None:
    balancer = exact()
    assert balancer(LOSSES).item() == pytest.approx(3.0, rel=1e-14)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx([1.0, 0.5, 0.25], rel=1e-14)


def test_by_hand() -> None:
    balancer = exact(beta=0.8)
    history = torch.stack([LOSSES, LOSSES.flip(0), LOSSES + 1])
    for count, losses in enumerate(history, 1):
        powers = [0.8 ** (count - 1 - i) for i in range(count)]
        mean = sum(power * past for power, past in zip(powers, history[:count], strict=True)) / sum(powers)
        torch.testing.assert_close(update(balancer, losses), 1 / mean, rtol=1e-13, atol=0.0)


def test_with_a_beta_of_zero_the_gradient_is_that_of_the_logarithms() -> None:
    balancer = exact(beta=0.0)
    update(balancer, LOSSES)
    assert update(balancer, 3 * LOSSES).tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 12], rel=1e-14)


def test_an_absent_tasks_mean_stays() -> None:
    balancer, always = exact(beta=0.5), exact(beta=0.5)
    for losses in (LOSSES, 2 * LOSSES):
        update(balancer, losses)
        update(always, losses)
    state = [balancer.average[1].item(), balancer.mass[1].item()]
    weights = update(balancer, torch.tensor([1.0, math.nan, 1.0], dtype=torch.float64), flags(1, 0, 1))
    assert weights[1] == 0
    assert weights.isfinite().all()
    assert [balancer.average[1].item(), balancer.mass[1].item()] == state
    assert update(balancer, LOSSES)[1] == update(always, LOSSES)[1]


def test_nothing_is_taken_in_before_the_update_is_made_nor_twice() -> None:
    balancer = exact()
    update(balancer, LOSSES)
    before = balancer.average.clone()
    balancer(100 * LOSSES)  # an update that is then skipped
    balancer(2 * LOSSES)
    assert torch.equal(balancer.average, before)
    balancer.after_update(lambda: LOSSES)
    once = balancer.average.clone()
    torch.testing.assert_close(once, 0.99 * before + 0.01 * 2 * LOSSES)
    balancer.after_update(lambda: LOSSES)
    assert torch.equal(balancer.average, once)


def test_a_loss_that_changes_its_sign_keeps_its_direction() -> None:
    balancer = exact()
    update(balancer, LOSSES)
    assert (update(balancer, -LOSSES) > 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_not_taken_in(bad: float) -> None:
    balancer = exact()
    update(balancer, torch.tensor([1.0, bad, 4.0], dtype=torch.float64))
    assert update(balancer, LOSSES).tolist() == pytest.approx([1.0, 0.5, 0.25], rel=1e-14)


def test_losses_of_zero_have_finite_weights() -> None:
    assert update(EMANormalization(3), torch.zeros(3)).tolist() == pytest.approx([1e8] * 3, rel=1e-5)


def test_goes_on_after_a_reload() -> None:
    balancer = exact()
    for scale in (1.0, 2.0, 0.5):
        update(balancer, scale * LOSSES)
    fresh = reloaded(balancer, exact())
    for part in (balancer, fresh):
        update(part, 3 * LOSSES)
    assert torch.equal(weights_of(fresh, LOSSES), weights_of(balancer, LOSSES))
