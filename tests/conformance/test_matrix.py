"""Every balancer on every architecture: finite, and whatever equal weights move, each balancer moves, too.

By default every kind of balancer is tried on every architecture, and every balancer on one; `-m slow` tries all.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Hashable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from mtl_lightning.architectures import Architecture
from mtl_lightning.balancing import Balancer
from mtl_lightning.balancing.build import build_balancer
from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.data import TaskFactory
from mtl_lightning.tasks import BinaryClassification, Regression
from mtl_lightning.types import Batch, ConfigurationError, TargetSpec
from tests.contracts.architecture_cases import exported, rows, tried
from tests.contracts.balancer_cases import CASES
from tests.cover import covering
from tests.helpers import assert_same, fit, make_module, weights_of

FEW, MANY, ROWS = 3, 20, 8
ROUNDING = 1e-12
TASKS: dict[str, TaskFactory] = {
    "number": Regression,
    "size": partial(Regression, loss="l1"),
    "kind": BinaryClassification,
}
BALANCERS = {case.name: case.factory([*range(len(TASKS))]) for case in CASES if case.ours and "-" not in case.name}
PLAIN = Balancer.__name__


def smallest(cls: Any) -> Any:
    """The case of an architecture, made from its sizes alone, whose inputs have the fewest entries."""
    cases = [case.values for case in tried(cls) if case.values[0] is cls]
    return min(cases, key=lambda case: math.prod(case[1].shape))


ARCHITECTURES = {cls.__name__: smallest(cls) for cls in exported(Architecture)}
every_balancer = pytest.mark.parametrize("balancer", BALANCERS)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@functools.cache
def kind(balancer: str) -> tuple[Any, ...]:
    """What core does for a balancer."""
    made = build_balancer(BALANCERS[balancer], len(TASKS))
    return (made.gramian, made.level) if isinstance(made, GradientBalancer) else ()


def goals(case: tuple[str, str]) -> set[Hashable]:
    """Every kind of balancer meets every architecture, and every balancer at least one."""
    architecture, balancer = case
    return {(architecture, kind(balancer)), balancer}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Warnings about networks with nothing to share, or with one worker, are tested elsewhere."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def batches(spec: Any, number: int) -> list[Batch]:
    """Random inputs (8, *) with one number a row for each task: a value, a size, and yes or no."""
    torch.manual_seed(1)
    made: list[Batch] = []
    for _ in range(number):
        value, size, sign = torch.randn(3, ROWS, dtype=torch.float64)
        targets = {"number": value + 1, "size": 3 * size.abs(), "kind": (sign > 0).double()}
        made.append({"inputs": rows(spec, ROWS, torch.float64), "targets": targets})
    return made


def train(architecture: str, balancer: Any, updates: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's weights before and after; without momentum or decay, only a gradient other than 0 moves them."""
    factory, spec = ARCHITECTURES[architecture]
    tasks = {name: make(TargetSpec()) for name, make in TASKS.items()}
    parts = {"architecture": factory, "input_spec": spec, "balancer": balancer}
    module = make_module(tasks=tasks, **parts, optimizers={"default": partial(SGD, lr=0.02)})
    before = network_of(module)
    fit(module, batches(spec, updates))
    assert module.trainer.global_step == updates
    assert all(value.isfinite().all() for value in module.state_dict().values() if isinstance(value, Tensor))
    return before, network_of(module)


def network_of(module: Any) -> dict[str, Tensor]:
    """The weights of the architecture and of the heads."""
    return {name: weight for name, weight in weights_of(module).items() if not name.startswith("balancer.")}


def moved(before: dict[str, Tensor], after: dict[str, Tensor], by: float = 0.0) -> set[str]:
    """The names of the weights that moved by more than so much."""
    return {name for name, weight in after.items() if bool(((weight - before[name]).abs() > by).any())}


@functools.cache
def by_equal_weights(architecture: str, updates: int) -> tuple[dict[str, Tensor], set[str]]:
    """The initial weights, and the names of those that the plain sum moves, by more than rounding does.

    A bias that a batch normalisation takes out again has no gradient; floating point gives it one of 1e-17.
    """
    before, after = train(architecture, BALANCERS[PLAIN], updates)
    return before, moved(before, after, by=ROUNDING)


def with_balancer(architecture: str, balancer: str, updates: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train with a balancer's defaults; where tasks have features of their own, with the level that its error names."""
    try:
        return train(architecture, BALANCERS[balancer], updates)
    except ConfigurationError as error:
        if "level: parameters" not in str(error):
            raise
        return train(architecture, partial(BALANCERS[balancer], level="parameters"), updates)


def left_behind(architecture: str, balancer: str, updates: int) -> list[str]:
    """The names of the weights that equal weights move in so many updates, and the balancer does not."""
    start, expected = by_equal_weights(architecture, updates)
    before, after = with_balancer(architecture, balancer, updates)
    assert_same(before, start)
    return sorted(expected - moved(before, after))


@pytest.mark.parametrize(("architecture", "balancer"), covering([*product(ARCHITECTURES, BALANCERS)], goals))
def test_whatever_equal_weights_move_is_moved(architecture: str, balancer: str) -> None:
    """In a few updates, or else in many: a leading task may leave what only the others need for later."""
    assert not (left_behind(architecture, balancer, FEW) and left_behind(architecture, balancer, MANY))


@pytest.mark.slow
@every_architecture
@every_balancer
def test_whatever_equal_weights_move_in_many_updates_is_moved(architecture: str, balancer: str) -> None:
    assert left_behind(architecture, balancer, MANY) == []


@every_architecture
def test_equal_weights_move_the_network(architecture: str) -> None:
    """So that there is something to compare; all that may stay are biases that a normalisation takes out again."""
    start, expected = by_equal_weights(architecture, FEW)
    still = set(start) - expected
    assert all(name.endswith(".bias") for name in still), still
