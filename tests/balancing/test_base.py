"""The plain sum, and what the base class does for its subclasses."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mtl_lightning import balancing
from mtl_lightning.balancing import Balancer, LogLosses
from mtl_lightning.balancing.lookahead import Lookahead, TriesSteps
from mtl_lightning.balancing.rows import MasksFeatures, PerParameter, WeighsHeads


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


class Planning(Balancer):
    """Says neither that it tries steps nor that it follows epochs, but does."""

    def before_update(self, lookahead: Lookahead, present: Tensor) -> None: ...

    def after_epoch(self, losses: Tensor, present: Tensor) -> None: ...


class Silenced(Planning):
    follows_epochs = False

    def after_epoch(self, losses: Tensor, present: Tensor) -> None: ...


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


def test_facts_follow_from_what_is_overridden() -> None:
    assert not Balancer(1).tries_steps
    assert not Balancer(1).follows_epochs
    assert Planning(1).tries_steps
    assert Planning(1).follows_epochs
    assert not Silenced(1).follows_epochs
    assert LogLosses(1, losses=balancing.DWA).follows_epochs
    assert balancing.MGDA(1, losses=balancing.DWA).follows_epochs
    assert not balancing.MGDA(1).follows_epochs


def test_who_opts_into_what() -> None:
    every = [getattr(balancing, name)(3) for name in balancing.__all__]
    opted = {
        kind.__name__: [type(balancer).__name__ for balancer in every if isinstance(balancer, kind)]
        for kind in (TriesSteps, MasksFeatures, WeighsHeads, PerParameter)
    }
    assert opted == {
        "TriesSteps": ["AutoLambda"],
        "MasksFeatures": ["GradDrop"],
        "WeighsHeads": ["ExcessMTL"],
        "PerParameter": ["GradVac", "MetaBalance"],
    }
    assert [type(balancer).__name__ for balancer in every if balancer.tries_steps] == ["AutoLambda"]


def test_which_objectives_are_the_plain_sum() -> None:
    assert Balancer(2).sums_losses()
    assert Renamed(2).sums_losses()
    assert not Squared(2).sums_losses()
    assert not Doubled(2).sums_losses()
    assert balancing.MGDA(2).sums_losses()
    assert not balancing.MGDA(2, losses=balancing.UncertaintyWeighting).sums_losses()
    assert balancing.CRMOGM(2, balancer=balancing.MGDA).sums_losses()
    assert not balancing.CRMOGM(2, balancer=partial(balancing.MGDA, losses=LogLosses)).sums_losses()


def test_an_objective_put_in_place_of_the_sum_is_not_taken_for_it() -> None:
    balancer = Balancer(2)
    balancer.objective = Doubled(2).objective  # type: ignore[method-assign]
    assert not balancer.sums_losses()
