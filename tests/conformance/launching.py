"""Starts the training program to be killed (:mod:`tests.conformance.victim`) in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers import assert_same
from tests.programs import Program, start


def launch(folder: Path, moment: str = "never 0", world: int = 1, setting: str = "uncertainty") -> list[Program]:
    """Start the program in so many processes."""
    return start("tests.conformance.victim", str(folder), moment, setting, world=world)


def finish(children: list[Program]) -> tuple[list[int], str]:
    """Wait for all; return their statuses and what they complained about."""
    return [child.wait(timeout=300) for child in children], "\n".join(child.errors() for child in children)


def ended(children: list[Program], folder: Path) -> list[dict[str, Any]]:
    """Wait for runs that end by themselves; return what each process ended with."""
    statuses, errors = finish(children)
    assert statuses == [0] * len(children), errors
    return [torch.load(folder / f"end{rank}.pt", weights_only=True) for rank in range(len(children))]


def kill_at(folder: Path, moment: str, world: int = 1, setting: str = "uncertainty") -> None:
    """Train from the last checkpoint up to a moment, and kill all processes there."""
    children = launch(folder, moment, world, setting)
    said = children[0].stdout.readline()
    for child in children:
        child.kill()
    statuses, errors = finish(children)
    assert said == "reached\n", f"{moment}: {errors}"
    assert statuses == [-9] * world


def assert_same_end(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare weights and optimizer states bit for bit, then schedulers, callbacks, counters and random numbers."""
    assert_same(found.pop("weights"), expected["weights"])
    ours, theirs = found.pop("optimizer"), expected["optimizer"]
    assert _lists(ours["param_groups"]) == _lists(theirs["param_groups"])
    assert list(ours["state"]) == list(theirs["state"])
    for index, state in theirs["state"].items():
        assert_same(ours["state"][index], state)
    rest = {name: value for name, value in expected.items() if name not in ("weights", "optimizer")}
    assert repr(found) == repr(rest)


def _lists(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lists for tuples: PyTorch gives those of sharded states back as lists."""
    return [{name: list(v) if isinstance(v, tuple) else v for name, v in group.items()} for group in groups]
