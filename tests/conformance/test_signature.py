"""An update is the same on one process, on two, and on accumulated micro-batches: proven on labels missing unevenly."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest
import torch

from tests.conformance.signature import CASES, ROWS, SHARDED, batches, join, split, train
from tests.helpers import assert_same
from tests.programs import run

TOLERANCE = {"64-true": 1e-10, "32-true": 1e-5}
Ended: TypeAlias = dict[Any, Any]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    """What each of two processes ends with, for every case; one launch."""
    folder = tmp_path_factory.mktemp("two")
    run("tests.conformance.signature", str(folder), world=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_the_union_of_the_parts_is_the_whole() -> None:
    whole = batches()
    for batch, a, b in zip(whole, split(whole, 0, 2), split(whole, 1, 2), strict=True):
        joined = join(a, b)
        assert torch.equal(joined["inputs"], batch["inputs"])
        for name, target in batch["targets"].items():
            assert torch.equal(joined["targets"][name].nan_to_num(-1), target.nan_to_num(-1))
    labelled = [[int((part["targets"]["kind"] >= 0).sum()) for part in split(whole, i, 2)] for i in (0, 1)]
    assert sum(labelled[0]) < 0.7 * sum(labelled[1]) < 0.7 * len(whole) * ROWS / 2


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_processes(case: tuple[str, str, str], two_processes: list[Ended]) -> None:
    first, second = (ended[case] for ended in two_processes)
    assert_same(first, second)
    assert_same(first, train(case, batches()), atol=TOLERANCE[case[2]])


@pytest.mark.parametrize("case", SHARDED, ids="-".join)
def test_two_processes_with_sharded_parameters(case: tuple[str, str, str], two_processes: list[Ended]) -> None:
    first, second = (ended["-".join(case)] for ended in two_processes)
    assert_same(first, second)
    assert_same(first, train(case, batches()), atol=TOLERANCE[case[2]])


def test_rows_of_sharded_parameters_are_refused(two_processes: list[Ended]) -> None:
    for ended in two_processes:
        assert "TorchJD needs one gradient per task, which sharded parameters do not give" in str(ended["refused"])
        assert "Use `strategy: ddp`" in str(ended["refused"])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_micro_batches(case: tuple[str, str, str]) -> None:
    whole = batches()
    halves = [half for pair in zip(split(whole, 0, 2), split(whole, 1, 2), strict=True) for half in pair]
    assert_same(train(case, halves, accumulate_grad_batches=2), train(case, whole), atol=TOLERANCE[case[2]])


def test_the_comparison_can_fail() -> None:
    case = CASES[0]
    naive = train(case, split(batches(), 0, 2))
    with pytest.raises(AssertionError):
        assert_same(naive, train(case, batches()), atol=1e-3)
