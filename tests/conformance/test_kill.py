"""Killed at any moment and resumed from its last checkpoint, a run ends as the run that was left alone: bit for bit."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_lightning.core.atomic import AtomicCheckpointIO
from tests.conformance.victim import EPOCHS, SAVE_EVERY, UPDATES, UPDATES_PER_EPOCH
from tests.helpers import assert_same

ROOT = Path(__file__).parent.parent.parent


def launch(folder: Path, moment: str = "never 0") -> subprocess.Popen[str]:
    """Start the training program in a process of its own."""
    command = [sys.executable, "-m", "tests.conformance.victim", str(folder), moment]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(child: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """Wait for a run and return what it ended with."""
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors[-3000:]
    end: dict[str, Any] = torch.load(folder / "end0.pt", weights_only=True)
    return end


def kill_at(folder: Path, moment: str) -> None:
    """Train from the last checkpoint up to a moment, and kill the process there."""
    child = launch(folder, moment)
    assert child.stdout is not None
    said = child.stdout.readline()
    child.kill()
    _, errors = child.communicate(timeout=300)
    assert said == "reached\n", f"{moment}: {errors[-3000:]}"
    assert child.returncode == -9


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, Any]]]:
    """Start the run that is left alone; what is called later waits for its end."""
    folder = tmp_path_factory.mktemp("alone")
    child = launch(folder)

    @cache
    def wait() -> dict[str, Any]:
        end = ended(child, folder)
        assert end["updates"] == UPDATES
        assert end["stopping"]["stopped_epoch"] == end["epochs"] - 1 < EPOCHS - 1  # early, by its own validations
        assert end["scheduler"]["number"]["_last_lr"] != [0.02]  # the plateau was met
        return end

    yield wait
    child.kill()


def moments(number: int) -> list[str]:
    """Choose so many moments of a run, of the three kinds in turn, each after the ones before."""
    chance = random.Random(5)
    edges = [UPDATES * part // number for part in range(number + 1)]
    chosen = []
    for index in range(number):
        span = range(edges[index] + 1, edges[index + 1])
        inside = [step for step in span if step % UPDATES_PER_EPOCH]
        validated = [step for step in range(edges[index], edges[index + 1]) if step and not step % UPDATES_PER_EPOCH]
        saved = [step for step in range(edges[index], edges[index + 1]) if step and not step % SAVE_EVERY]
        kind = [("saving", saved), ("validation", validated), ("batch", inside)][(index + 1) % 3]
        name, steps = kind if kind[1] else ("batch", inside)
        step = chance.choice(steps)
        chosen.append(f"{name} {step // UPDATES_PER_EPOCH - 1 if name == 'validation' else step}")
    return chosen


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_the_one_left_alone(
    kills: int, left_alone: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    chosen = moments(kills)
    assert {moment.split()[0] for moment in chosen} == {"batch", "validation", "saving"}
    for moment in chosen:
        kill_at(tmp_path, moment)
        unfinished = list(tmp_path.glob(f"*{AtomicCheckpointIO.SUFFIX}"))
        assert bool(unfinished) or not moment.startswith("saving")  # it was killed half-way through the file
        for checkpoint in tmp_path.glob("*.ckpt"):
            torch.load(checkpoint, weights_only=True)
    assert_same_end(ended(launch(tmp_path), tmp_path), left_alone())


def assert_same_end(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare weights and optimizer states bit for bit, then schedulers, callbacks, counters and random numbers."""
    assert_same(found.pop("weights"), expected["weights"])
    ours, theirs = found.pop("optimizer"), expected["optimizer"]
    assert ours["param_groups"] == theirs["param_groups"]
    assert list(ours["state"]) == list(theirs["state"])
    for index, state in theirs["state"].items():
        assert_same(ours["state"][index], state)
    rest = {name: value for name, value in expected.items() if name not in ("weights", "optimizer")}
    assert repr(found) == repr(rest)


@pytest.mark.slow
def test_the_comparison_sees_other_random_numbers(left_alone: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    kill_at(tmp_path, f"batch {SAVE_EVERY + 1}")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["mtl_lightning"]["processes"][0]["rng"]["torch"] = torch.get_rng_state()
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(AssertionError):
        assert_same_end(ended(launch(tmp_path), tmp_path), left_alone())
