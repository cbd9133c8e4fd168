"""SIGTERM in one process and in two, and a process that dies: how the program ends, and what it leaves behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.conformance.launching import assert_same_end, ended, finish, launch
from tests.conformance.victim import TIMEOUT

SETTINGS = ["uncertainty", *(pytest.param(name, marks=pytest.mark.slow) for name in ("UPGrad", "sharded"))]


@pytest.mark.parametrize("setting", SETTINGS[:2])
def test_one_process_leaves_with_0(setting: str, tmp_path: Path) -> None:
    statuses, errors = finish(launch(tmp_path, "SIGTERM 7", 1, setting))
    assert statuses == [0], errors
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_processes_leave_with_0_and_go_on_where_they_were(setting: str, tmp_path: Path) -> None:
    alone = launch(tmp_path / "alone", "never 0", 2, setting)
    terminated = launch(tmp_path / "terminated", "SIGTERM 7", 2, setting)  # to the second alone, inside a window
    statuses, errors = finish(terminated)
    assert statuses == [0, 0], errors
    last = torch.load(tmp_path / "terminated/last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert len(last["mtl_lightning"]["processes"]) == 2
    found = ended(launch(tmp_path / "terminated", "never 0", 2, setting), tmp_path / "terminated")
    for one, other in zip(found, ended(alone, tmp_path / "alone"), strict=True):
        assert_same_end(one, other)
    assert found[0]["draws"] != found[1]["draws"]  # each process has random numbers of its own


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_first_process_does_not_survive_the_death_of_the_second(setting: str, tmp_path: Path) -> None:
    children = launch(tmp_path, "SIGKILL 7", 2, setting)
    children[1].wait(timeout=300)
    died = time.monotonic()
    statuses, errors = finish(children)
    assert time.monotonic() - died < TIMEOUT.total_seconds()
    assert statuses[1] == -9
    assert statuses[0] > 0
    assert "Error" in errors
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
