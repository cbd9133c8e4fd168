"""The plain sum, and what the base class does for its subclasses."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing import Balancer


class Squared(Balancer):
    """Overrides the objective and promises nothing."""

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        return torch.where(present, losses, 0.0).square().sum()


class Doubled(Balancer):
    affine = True

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        return 2 * super().objective(losses, present)


class Renamed(Balancer):
    """Leaves the objective alone."""


def test_sum_of_the_present() -> None:
    losses, present = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True])
    assert Balancer(3)(losses, present).item() == 5.0
    assert Balancer(3)(losses).item() == 7.0


def test_learns_nothing() -> None:
    balancer = Balancer(2)
    assert balancer.sigmas() is None
    assert balancer.owned() == {}
    assert balancer.state_dict() == {}


def test_the_promise_to_be_affine_must_be_repeated_with_the_objective() -> None:
    assert Balancer(1).affine
    assert Renamed(1).affine
    assert Doubled(1).affine
    assert not Squared(1).affine
