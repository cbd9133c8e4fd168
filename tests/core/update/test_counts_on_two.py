"""Two processes count labels on the host and add them up there; where one cannot, all of them count on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conformance.signature import split
from tests.core.update.counts_on_two import BALANCERS, CHANGED, counted, data
from tests.programs import run

PLACES = {"window.py: _counted_on_device"}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each ends with; the launch fails unless both end in order, with all of their groups."""
    folder = tmp_path_factory.mktemp("two")
    run("tests.core.update.counts_on_two", str(folder), world=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def added(balancer: str, accumulate: int = 1, taken: bool = False) -> list[list[dict[str, float]]]:
    """The counts of both processes' rows, each counted alone."""
    halves = [split(data(), rank, 2) for rank in (0, 1)]
    if taken:
        halves[1][CHANGED]["targets"]["number"][:2] = torch.nan
    found = [counted(balancer, half, accumulate)[0] for half in halves]
    return [
        [{name: one[name] + other[name] for name in one} for one, other in zip(*windows, strict=True)]
        for windows in zip(*found, strict=True)
    ]


@pytest.mark.parametrize("case", ["kept", "beside"])
@pytest.mark.parametrize("balancer", BALANCERS)
def test_counts_are_added_without_a_look_at_the_device(
    balancer: str, case: str, two_processes: list[dict[Any, Any]]
) -> None:
    for ended in two_processes:
        noted, reads = ended[balancer, case]
        assert noted == added(balancer, accumulate=1 + (case == "beside"))
        assert not reads


@pytest.mark.parametrize("balancer", BALANCERS)
def test_one_process_that_does_not_know_has_all_of_them_look(
    balancer: str, two_processes: list[dict[Any, Any]]
) -> None:
    for ended in two_processes:
        noted, reads = ended[balancer, "changed"]
        assert noted == added(balancer, taken=True)
        assert {*reads} == PLACES
