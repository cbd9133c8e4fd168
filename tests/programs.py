"""Programs of the tests in processes of their own, several at once if need be.

They are forked from a server that has imported everything already: an interpreter of their own would take longer to
import torch and lightning than most of them run. Only tests of the interpreter's end start one.
"""

from __future__ import annotations

import gc
import importlib.metadata
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
from lightning.fabric.utilities import registry

ROOT = Path(__file__).parent.parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.programs", "mtl_lightning.cli", "torch.distributed.tensor", "tests.helpers"])


registry.entry_points = cache(importlib.metadata.entry_points)  # type: ignore[attr-defined,assignment]
"""Lightning reads the names of all installed packages for every trainer: a tenth of a short run."""


class Program:
    """A program that runs, with what it says.

    Attributes:
        stdout: what it prints, as it does so.
    """

    def __init__(self, program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        reader, writer = SERVER.Pipe(duplex=False)
        self._errors = TemporaryFile()  # noqa: SIM115  # closed with this object
        self._reader = reader
        self.stdout: IO[str] = os.fdopen(os.dup(reader.fileno()))
        path = f"/proc/{os.getpid()}/fd/{self._errors.fileno()}"
        self._process = SERVER.Process(target=_run, args=(program, [*arguments], {**environment}, writer, path))
        self._process.start()
        writer.close()

    def kill(self) -> None:
        """Kill it."""
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Return its status when it has ended; the negative number of the signal that ended it."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            self.kill()
            raise TimeoutError(f"A program still ran after {timeout} s. It complained: {self.errors()}")
        return status

    def ended(self) -> bool:
        """Whether it has."""
        return self._process.exitcode is not None

    @property
    def sentinel(self) -> int:
        """What becomes ready when it ends."""
        return self._process.sentinel

    def errors(self) -> str:
        """Return the end of what it has complained about so far."""
        self._errors.seek(0)
        return self._errors.read().decode()[-3000:]


def _run(program: str, arguments: list[str], environment: dict[str, str], out: Connection, errors: str) -> None:
    """Be the program; in the new process."""
    os.chdir(ROOT)
    os.environ.update(environment)
    os.dup2(out.fileno(), 1)
    with open(errors, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    # As the interpreter does by default: a server would import all again for a worker, and outlive the program.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    gc.freeze()  # what the server has imported is no garbage
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def stop() -> None:
    """Stop the server and wait for it, so that the time of the programs counts as that of the tests."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # there is no public way


def environments(world: int) -> list[dict[str, str]]:
    """Return the environment of each of so many processes, as Lightning wants them started from outside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {} for rank in range(world)]


def start(program: str, *arguments: str, world: int = 1) -> list[Program]:
    """Start a program, a module by its name, in so many processes."""
    return [Program(program, arguments, environment) for environment in environments(world)]


def run(program: str, *arguments: str, world: int = 1, timeout: float = 300) -> None:
    """Run a program in so many processes to their good ends; if one fails, kill the others."""
    children = start(program, *arguments, world=world)
    end = time.monotonic() + timeout
    while running := [child for child in children if not child.ended()]:
        wait([child.sentinel for child in running], timeout=max(0.0, end - time.monotonic()))
        if any(child.ended() and child.wait(1) for child in children) or time.monotonic() > end:
            for child in children:
                child.kill()
            break
    statuses = [child.wait(10) for child in children]
    assert not any(statuses), (statuses, *(child.errors() for child in children))
