"""Every balancer's update is the same on one process, on two, and on accumulated micro-batches, labels missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conformance.every_balancer import BY_NAME, PRECISIONS, data_of, micro_batches, train
from tests.helpers import assert_same
from tests.programs import run

NOT_OF_A_WINDOW = ("AutoLambda", "FAMO", "MoDo", "SDMGrad")
"""Methods whose update is not a function of the union of a window's micro-batches: they look at parts of batches, or at
losses again after the step. They are exempt from the half about accumulation alone."""
every_case = pytest.mark.parametrize("name", BY_NAME)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two processes ends with, for every case; one launch."""
    folder = tmp_path_factory.mktemp("two")
    run("tests.conformance.every_balancer", str(folder), world=2, timeout=500)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@every_precision
@every_case
def test_two_processes(name: str, precision: str, two_processes: list[Any]) -> None:
    first, second = (ended[name, precision] for ended in two_processes)
    assert_same(first, second)
    assert_same(first, train(name, precision, data_of(BY_NAME[name])), atol=PRECISIONS[precision])


@every_precision
@pytest.mark.parametrize("name", [name for name in BY_NAME if not name.startswith(NOT_OF_A_WINDOW)])
def test_two_micro_batches(name: str, precision: str) -> None:
    whole = train(name, precision, data_of(BY_NAME[name]))
    found = train(name, precision, micro_batches(BY_NAME[name]), accumulate_grad_batches=2)
    assert_same(found, whole, atol=PRECISIONS[precision])


@every_case
def test_training_moves_every_part(name: str) -> None:
    """Nothing that receives a gradient under the plain sum stays where it was."""
    before = train(name, "64-true", data_of(BY_NAME[name])[:1], max_steps=0)
    after = train(name, "64-true", data_of(BY_NAME[name]))
    for key, value in after.items():
        if key.startswith(("architecture.", "heads.")):
            assert not torch.equal(value, before[key]), key
