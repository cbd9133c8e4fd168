"""SIGTERM in one process and in two, and a process that dies: how the program ends, and what it leaves behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.conformance.test_kill import ROOT, assert_same_end
from tests.conformance.victim import TIMEOUT


def launch(folder: Path, moment: str = "never 0", world: int = 2) -> list[subprocess.Popen[str]]:
    """Start the training program in so many processes, as Lightning wants them started from outside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    command = [sys.executable, "-m", "tests.conformance.victim", str(folder), moment]
    ranks = [{**os.environ, **shared, "LOCAL_RANK": str(rank)} if world > 1 else None for rank in range(world)]
    return [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for env in ranks
    ]


def finish(children: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Wait for all; return their statuses and what they complained about."""
    errors = [child.communicate(timeout=300)[1] for child in children]
    return [child.returncode for child in children], "\n".join(text[-2000:] for text in errors)


def ends(folder: Path) -> list[dict[str, Any]]:
    """Train to the end and return what each process ended with."""
    statuses, errors = finish(launch(folder))
    assert statuses == [0, 0], errors
    return [torch.load(folder / f"end{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_one_process_leaves_with_0(tmp_path: Path) -> None:
    statuses, errors = finish(launch(tmp_path, "SIGTERM 7", world=1))
    assert statuses == [0], errors
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


def test_two_processes_leave_with_0_and_go_on_where_they_were(tmp_path: Path) -> None:
    alone = launch(tmp_path / "alone")
    statuses, errors = finish(launch(tmp_path / "terminated", "SIGTERM 7"))  # to the second alone, inside a window
    assert statuses == [0, 0], errors
    last = torch.load(tmp_path / "terminated/last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert len(last["mtl_lightning"]["processes"]) == 2
    found = ends(tmp_path / "terminated")
    statuses, errors = finish(alone)
    assert statuses == [0, 0], errors
    for rank in (0, 1):
        assert_same_end(found[rank], torch.load(tmp_path / f"alone/end{rank}.pt", weights_only=True))
    assert found[0]["draws"] != found[1]["draws"]  # each process has random numbers of its own


def test_the_first_process_does_not_survive_the_death_of_the_second(tmp_path: Path) -> None:
    children = launch(tmp_path, "SIGKILL 7")
    children[1].wait(timeout=300)
    died = time.monotonic()
    statuses, errors = finish(children)
    assert time.monotonic() - died < TIMEOUT.total_seconds()
    assert statuses[1] == -9
    assert statuses[0] > 0
    assert "Error" in errors
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
