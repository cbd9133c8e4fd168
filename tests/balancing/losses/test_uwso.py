"""UW-SO and UW-O: by hand, their limits, absent tasks, losses of zero."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mtl_lightning.balancing.losses.uncertainty import UncertaintyWeighting
from mtl_lightning.balancing.losses.uwso import UWSO
from mtl_lightning.types import ConfigurationError
from tests.balancing.loss_cases import LOSSES, flags, weights_of


def test_by_hand() -> None:
    powers = [math.exp(1 / (0.5 * loss)) for loss in (1.0, 2.0, 4.0)]
    expected = [power / sum(powers) for power in powers]
    balancer = UWSO(3, temperature=0.5)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx(expected, rel=1e-14)
    value = sum(weight * loss for weight, loss in zip(expected, (1.0, 2.0, 4.0), strict=True))
    assert balancer(LOSSES).item() == pytest.approx(value, rel=1e-14)


def test_a_large_temperature_gives_the_mean() -> None:
    torch.testing.assert_close(UWSO(3, temperature=1e9)(LOSSES), LOSSES.mean())


def test_of_the_present() -> None:
    weights = weights_of(UWSO(3, temperature=1.0), LOSSES, flags(0, 1, 1))
    expected = torch.tensor([0.5, 0.25], dtype=torch.float64).softmax(0)
    assert weights.tolist() == [0.0, *expected.tolist()]
    assert weights_of(UWSO(3, temperature=1.0, total="tasks"), LOSSES, flags(0, 1, 1)).tolist() == [
        0.0,
        *(2 * expected).tolist(),
    ]


def test_the_default_temperature_follows_the_losses() -> None:
    expected = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64).softmax(0)  # 1 / L over twice the largest of them
    for factor in (1e-6, 1.0, 1e6):
        torch.testing.assert_close(weights_of(UWSO(3), factor * LOSSES), expected)
    among_two = torch.tensor([0.5, 0.25], dtype=torch.float64).softmax(0)
    assert weights_of(UWSO(3), LOSSES, flags(0, 1, 1)).tolist() == [0.0, *among_two.tolist()]


@pytest.mark.parametrize("number", [2, 40])
def test_no_task_is_left_without_weight_by_default(number: int) -> None:
    losses = torch.logspace(-9, 3, number, dtype=torch.float64)
    weights = weights_of(UWSO(number), losses)
    assert 1 < weights.max() / weights.min() <= math.exp(0.5) + 1e-12


def test_the_optimal_form_has_the_gradient_of_the_logarithms() -> None:
    balancer = UWSO(3, form="optimal")
    assert balancer(LOSSES).item() == pytest.approx(3.0, rel=1e-14)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx([1.0, 0.5, 0.25], rel=1e-14)
    assert balancer(LOSSES, flags(1, 0, 1)).item() == pytest.approx(2.0, rel=1e-14)


def test_the_optimal_form_is_what_uncertainty_weighting_converges_to() -> None:
    learned = UncertaintyWeighting(3, init="first_batch").double()
    learned(LOSSES)  # s is then at its optimum for these losses
    torch.testing.assert_close(2 * weights_of(learned, LOSSES), weights_of(UWSO(3, form="optimal"), LOSSES))


@pytest.mark.parametrize("form", ["softmax", "optimal"])
def test_losses_of_zero_have_finite_weights(form: Any) -> None:
    for losses in (torch.tensor([0.0, 1.0, 1e-30]), torch.zeros(3)):
        balancer = UWSO(3, form=form, temperature=1e-3)
        assert balancer(losses).isfinite()
        assert weights_of(balancer, losses).isfinite().all()


def test_how_an_update_follows_the_losses_scale() -> None:
    assert UWSO(3).scale == "linear"
    assert UWSO(3, temperature=1.0).scale == "none"
    optimal = UWSO(3, form="optimal")
    assert optimal.scale == "invariant"
    torch.testing.assert_close(10 * weights_of(optimal, 10 * LOSSES), weights_of(optimal, LOSSES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "hard"}, "found 'hard' and 'one'"),
        ({"total": "two"}, "found 'softmax' and 'two'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        UWSO(3, **options)
