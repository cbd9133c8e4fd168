"""Logarithms in front of loss balancers: scale-invariant weighting, what is passed on, gradient balancers, YAML."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.losses.auto_lambda import AutoLambda
from mtl_lightning.balancing.losses.dwa import DWA
from mtl_lightning.balancing.losses.fixed import FixedWeighting
from mtl_lightning.balancing.losses.geometric_mean import GeometricMean
from mtl_lightning.balancing.losses.imtl_l import IMTLL
from mtl_lightning.balancing.losses.log_losses import LogLosses
from mtl_lightning.balancing.losses.random_weighting import RandomWeighting
from mtl_lightning.balancing.rows import GramianBalancer, LossBalancer
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.loss_cases import LOSSES, flags, reloaded, weights_of


class Sum(GramianBalancer):
    """The plainest gradient balancer."""

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        return torch.ones_like(losses)


def test_the_sum_of_logarithms() -> None:
    balancer = LogLosses(3, eps=1e-30)
    assert balancer(LOSSES).item() == pytest.approx(math.log(8.0), rel=1e-14)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx([1.0, 0.5, 0.25], rel=1e-14)
    assert balancer(LOSSES, flags(1, 1, 0)).item() == pytest.approx(math.log(2.0), rel=1e-14)


def test_a_loss_of_zero_has_a_finite_weight() -> None:
    weights = weights_of(LogLosses(2, eps=1e-3), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert weights.tolist() == pytest.approx([1e3, 1 / 1.001])


@pytest.mark.parametrize(
    "losses",
    [partial(FixedWeighting, weights=[1.0, 2.0, 0.5]), partial(RandomWeighting, seed=3), IMTLL, GeometricMean],
)
def test_is_the_other_balancer_of_the_logarithms(losses: LossBalancer) -> None:
    balancer, other = LogLosses(3, losses=losses, eps=1e-30), losses(3)
    present = flags(1, 0, 1)
    torch.testing.assert_close(balancer(LOSSES + 1), other(torch.log(LOSSES + 1)), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(balancer(LOSSES + 1, present), other(torch.log(LOSSES + 1), present))


def test_passes_on_what_the_other_needs() -> None:
    fixed = LogLosses(2, losses=partial(FixedWeighting, weights={"b": 2.0, "a": 1.0}))
    fixed.bind(dict.fromkeys(("a", "b"), Likelihood(0.5, 0.5, "log_var")))
    assert fixed(LOSSES[:2]).item() == pytest.approx(2 * math.log(2.0), rel=1e-7)
    learned = LogLosses(2, losses=partial(IMTLL, bounds=(-1.0, 1.0)))
    assert {index: len(owned) for index, owned in learned.owned().items()} == {0: 1, 1: 1}
    with torch.no_grad():
        learned.owned()[0][0].fill_(3.0)
    learned.after_update(lambda: LOSSES[:2])
    assert learned.owned()[0][0].item() == 1.0
    assert learned.sigmas() is None


def test_an_epochs_means_are_passed_on_as_logarithms() -> None:
    balancer = LogLosses(3, losses=DWA, eps=1e-30).double()
    balancer.after_epoch(LOSSES, flags(1, 0, 1))
    assert isinstance(balancer.losses, DWA)
    assert balancer.losses.newer.tolist() == pytest.approx([0.0, 0.0, math.log(4.0)])
    assert balancer.losses.epochs.tolist() == [1, 0, 1]
    assert balancer.follows_epochs
    assert not LogLosses(3).follows_epochs


def test_the_others_state_survives_a_reload() -> None:
    make = partial(LogLosses, 3, losses=RandomWeighting)
    balancer = make()
    balancer.after_update(lambda: LOSSES)
    assert torch.equal(reloaded(balancer, make())(LOSSES), balancer(LOSSES))


def test_how_an_update_follows_the_losses_scale() -> None:
    assert LogLosses(3).scale == "invariant"
    assert LogLosses(3, losses=GeometricMean).scale == "none"
    assert not LogLosses(3).affine


def test_in_front_of_a_gradient_balancer() -> None:
    balancer = Sum(3, losses=LogLosses)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx([1.0, 0.5, 0.25], rel=1e-7)


def test_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--balancer", type=Callable[[int], Balancer])
    part = {
        "class_path": "mtl_lightning.balancing.LogLosses",
        "init_args": {"losses": {"class_path": "mtl_lightning.balancing.IMTLL", "init_args": {"init": 1.0}}},
    }
    balancer = parser.instantiate(parser.parse_object({"balancer": part})).balancer(2)
    assert weights_of(balancer, LOSSES[:2]).tolist() == pytest.approx([math.e, math.e / 2], rel=1e-6)


def test_what_is_no_loss_balancer_is_refused() -> None:
    other: Any
    for other in (Sum, lambda num_tasks: Balancer(num_tasks + 1), torch.nn.Identity, AutoLambda):
        with pytest.raises(ConfigurationError, match="expected as `losses` a loss balancer for 3 tasks, one that"):
            LogLosses(3, losses=other)
