"""Every balancer's update is the same on one process, on two, and on accumulated micro-batches, labels missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.every_balancer import ALL, BY_NAME, COVER, PRECISIONS, data_of, goals, micro_batches, train
from tests.cover import covering
from tests.helpers import assert_same
from tests.programs import run

NOT_OF_A_WINDOW = ("AutoLambda", "FAMO", "MoDo", "SDMGrad")
"""Methods whose update is not a function of the union of a window's micro-batches: they look at parts of batches, or at
losses again after the step. They are exempt from the half about accumulation alone."""
WITH_WINDOWS = [case for case in ALL if not case[0].startswith(NOT_OF_A_WINDOW)]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """What each of two processes ends with, for the default cases or the slow ones; one launch for each of them."""

    @cache
    def launched(choice: str) -> list[Any]:
        folder = tmp_path_factory.mktemp("two")
        run("tests.conformance.every_balancer", str(folder), choice, world=2, timeout=500)
        return [torch.load(folder / f"rank{rank}-{choice}.pt", weights_only=True) for rank in (0, 1)]

    return launched


@cache
def alone(name: str, precision: str) -> dict[str, Tensor]:
    """What one process ends with."""
    return train(name, precision, data_of(BY_NAME[name]))


@pytest.mark.parametrize(("name", "precision"), covering(ALL, goals))
def test_two_processes(name: str, precision: str, two_processes: Callable[[str], list[Any]]) -> None:
    choice = "cover" if (name, precision) in COVER else "rest"
    first, second = (ended[name, precision] for ended in two_processes(choice))
    assert_same(first, second)
    assert_same(first, alone(name, precision), atol=PRECISIONS[precision])


@pytest.mark.parametrize(("name", "precision"), covering(WITH_WINDOWS, goals))
def test_two_micro_batches(name: str, precision: str) -> None:
    found = train(name, precision, micro_batches(BY_NAME[name]), accumulate_grad_batches=2)
    assert_same(found, alone(name, precision), atol=PRECISIONS[precision])


@pytest.mark.parametrize("name", BY_NAME)
def test_training_moves_every_part(name: str) -> None:
    """Nothing that receives a gradient under the plain sum stays where it was."""
    before = train(name, "64-true", data_of(BY_NAME[name])[:1], max_steps=0)
    after = alone(name, "64-true")
    for key, value in after.items():
        if key.startswith(("architecture.", "heads.")):
            assert not torch.equal(value, before[key]), key
