"""Killed at any moment and resumed from its last checkpoint, a run ends as the run that was left alone: bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_lightning.core.compat.atomic import AtomicCheckpointIO
from tests.conformance.launching import assert_same_end, ended, kill_at, launch
from tests.conformance.victim import EPOCHS, SAVE_EVERY, UPDATES, UPDATES_PER_EPOCH


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, Any]]]:
    """Start the run that is left alone; what is called later waits for its end."""
    folder = tmp_path_factory.mktemp("alone")
    children = launch(folder)

    @cache
    def wait() -> dict[str, Any]:
        (end,) = ended(children, folder)
        assert end["updates"] == UPDATES
        assert end["stopping"]["stopped_epoch"] == end["epochs"] - 1 < EPOCHS - 1  # early, by its own validations
        assert end["scheduler"]["number"]["scheduler"]["_last_lr"] != [0.02]  # the plateau was met
        return end

    yield wait
    children[0].kill()


def moments(number: int, updates: int = UPDATES) -> list[str]:
    """Choose so many moments of a run, of the three kinds in turn, each after the ones before."""
    chance = random.Random(5)
    edges = [updates * part // number for part in range(number + 1)]
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
    assert_same_end(ended(launch(tmp_path), tmp_path)[0], left_alone())


@pytest.mark.slow
@pytest.mark.parametrize(("world", "setting"), [(1, "UPGrad"), (2, "uncertainty"), (2, "UPGrad"), (2, "sharded")])
def test_killed_processes_end_as_those_left_alone(world: int, setting: str, tmp_path: Path) -> None:
    """All processes are killed together; each has random numbers and loader workers of its own."""
    alone = ended(launch(tmp_path / "alone", world=world, setting=setting), tmp_path / "alone")
    for moment in moments(3, alone[0]["updates"]):
        kill_at(tmp_path / "killed", moment, world, setting)
    found = ended(launch(tmp_path / "killed", world=world, setting=setting), tmp_path / "killed")
    for one, other in zip(found, alone, strict=True):
        assert_same_end(one, other)


@pytest.mark.slow
def test_the_comparison_sees_other_random_numbers(left_alone: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    kill_at(tmp_path, f"batch {SAVE_EVERY + 1}")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["mtl_lightning"]["processes"][0]["random_state"]["torch"] = torch.get_rng_state()
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(AssertionError):
        assert_same_end(ended(launch(tmp_path), tmp_path)[0], left_alone())
