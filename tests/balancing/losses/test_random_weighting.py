"""Random weights: their distribution, when they change, and LibMTL's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.losses.random_weighting import RandomWeighting
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator
from mtl_lightning.types import ConfigurationError
from tests.balancing.loss_cases import LOSSES, assert_golden, flags, reloaded, weights_of
from tests.golden import Case, cases


class Recorded(SeededGenerator):
    """SeededGenerator what LibMTL drew."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__(seed=0)
        self.numbers = numbers

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        return self.numbers.reshape(shape).to(like)


def step(balancer: RandomWeighting) -> None:
    balancer.after_update(lambda: LOSSES)


def test_weights_are_the_softmax_of_normal_draws() -> None:
    drawn = SeededGenerator(seed=5).normal(3, like=LOSSES)
    assert torch.equal(weights_of(RandomWeighting(3, seed=5), LOSSES), drawn.softmax(0))


@pytest.mark.parametrize(("total", "expected"), [("one", 1.0), ("tasks", 3.0)])
def test_their_sum(total: Any, expected: float) -> None:
    balancer = RandomWeighting(3, total=total, seed=0)
    drawn = []
    for _ in range(2000):
        drawn.append(weights_of(balancer, LOSSES))
        step(balancer)
    found = torch.stack(drawn)
    torch.testing.assert_close(found.sum(1), torch.full((2000,), expected, dtype=torch.float64))
    # four standard errors: a softmax of three normal draws has a standard deviation of about 0.2
    assert (found.mean(0) - expected / 3).abs().max() < 4 * 0.2 * expected / 2000**0.5


def test_weights_stay_within_an_update_and_change_after_it() -> None:
    balancer = RandomWeighting(3, seed=0)
    first = weights_of(balancer, LOSSES)
    assert torch.equal(weights_of(balancer, 2 * LOSSES), first)
    step(balancer)
    assert not torch.equal(weights_of(balancer, LOSSES), first)


def test_an_absent_task_changes_no_other_weight() -> None:
    balancer = RandomWeighting(3, seed=0)
    everyone, some = weights_of(balancer, LOSSES), weights_of(balancer, LOSSES, flags(1, 0, 1))
    assert torch.equal(some[[0, 2]], everyone[[0, 2]])
    assert some[1] == 0


def test_the_seed_decides_whatever_the_global_random_state_is() -> None:
    first, second = RandomWeighting(3, seed=7), RandomWeighting(3, seed=7)
    found = weights_of(first, LOSSES)
    torch.randn(3)
    assert torch.equal(weights_of(second, LOSSES), found)
    assert not torch.equal(weights_of(RandomWeighting(3, seed=8), LOSSES), found)


def test_goes_on_after_a_reload() -> None:
    balancer = RandomWeighting(3, seed=1)
    step(balancer)
    fresh = reloaded(balancer, RandomWeighting(3, seed=2))
    for _ in range(2):
        assert torch.equal(weights_of(fresh, LOSSES), weights_of(balancer, LOSSES))
        step(balancer)
        step(fresh)


@pytest.mark.parametrize("case", cases("RLW"), ids=str)
def test_libmtl(case: Case) -> None:
    balancer = RandomWeighting(case.tasks)
    for recorded in case.steps:
        balancer.draws = Recorded(recorded["random_draws"]["torch_randn"][0])
        assert_golden(recorded, weights_of(balancer, recorded["losses"]))


def test_an_unknown_total_is_refused() -> None:
    total: Any = "half"
    with pytest.raises(ConfigurationError, match="`total` to be 'one' or 'tasks', found 'half'"):
        RandomWeighting(3, total=total)
