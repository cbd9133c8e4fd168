"""An update is the same on one process, on two, and on accumulated micro-batches, whatever the tasks are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mtl_lightning import tasks
from tests.conformance.every_task import BALANCERS, batches, row_cases, train
from tests.conformance.signature import split
from tests.helpers import assert_same
from tests.programs import run


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes ends with; one launch."""
    folder: Path = tmp_path_factory.mktemp("two")
    run("tests.conformance.every_task", str(folder), world=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_no_task_is_left_out() -> None:
    dense = {"DepthEstimation", "SemanticSegmentation", "SurfaceNormals", "Task"}
    assert {case.cls.__name__ for case in row_cases().values()} == {*tasks.__all__} - dense


@pytest.mark.parametrize("balancer", BALANCERS)
def test_one_process_two_and_accumulated(balancer: str, two_processes: list[dict[str, dict[str, Tensor]]]) -> None:
    whole = batches()
    halves = [half for pair in zip(split(whole, 0, 2), split(whole, 1, 2), strict=True) for half in pair]
    expected = train(balancer, whole)
    assert all(weight.isfinite().all() for weight in expected.values())
    assert_same(train(balancer, halves, accumulate_grad_batches=2), expected, atol=1e-9)
    first, second = (ended[balancer] for ended in two_processes)
    assert_same(first, second)
    assert_same(first, expected, atol=1e-9)
    with pytest.raises(AssertionError):
        assert_same(train(balancer, split(whole, 0, 2)), expected, atol=1e-3)
