"""Time blocks of steps so that a busy machine hurts all variants alike: CPU time, interleaved, as ratios to a floor.

Every variant, a bare loop or a trainer, takes its batches from a :class:`TimedBatches`, which reads the clock when a
batch is *asked for*. Between two requests lies exactly one step of whatever asks, all of a trainer's hooks, logging
and moving of batches included; what comes before the first timed request (building a trainer, making optimizer state)
and behind the last one (the end of an epoch) is left out. No thread and no hook of the trainer is needed for that.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from benchmarks.records import Spread

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of glibc's mallopt(3)


class TimedBatches:
    """Hands out ready-made batches, over and over, and notes the CPU time of a process between two of them.

    Args:
        batches: what to hand out, in turn.
        steps: the number of steps that are timed.
        warmup: the number of steps before them, which are not.
        clock: tells the time in seconds.

    Attributes:
        seconds: the CPU seconds of one step, a mean over ``steps``; known once all batches were handed out.
    """

    def __init__(
        self, batches: Sequence[Any], steps: int, warmup: int, clock: Callable[[], float] = time.process_time
    ) -> None:
        self.batches, self.steps, self.warmup, self.clock = batches, steps, warmup, clock
        self.seconds = float("nan")

    def __len__(self) -> int:
        """The number of batches: one more than is timed, so that no end of an epoch is."""
        return self.warmup + self.steps + 1

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches and look at the clock."""
        start = 0.0
        for index in range(len(self)):
            if index == self.warmup:
                gc.collect()
                start = self.clock()
            if index == self.warmup + self.steps:
                self.seconds = (self.clock() - start) / self.steps
            yield self.batches[index % len(self.batches)]


Variant: TypeAlias = Callable[[TimedBatches], None]
"""Trains anew, from the same weights, on the batches that it is given."""


@dataclass(frozen=True)
class Times:
    """What :func:`interleave` measured.

    Attributes:
        floor: CPU seconds a step of each block of the floor.
        ratios: by variant, one number per round: its block over the mean of the floor's blocks before and behind it.
    """

    floor: list[float]
    ratios: dict[str, list[float]]

    def to_floor(self, name: str) -> Spread:
        """Return the step of a variant over that of the floor."""
        return Spread.of(self.ratios[name])

    def to(self, name: str, other: str) -> Spread:
        """Return the step of a variant over that of another one in the same round."""
        return Spread.of([a / b for a, b in zip(self.ratios[name], self.ratios[other], strict=True)])


def interleave(
    floor: Variant,
    variants: Mapping[str, Variant],
    batches: Sequence[Any],
    *,
    rounds: int,
    steps: int,
    warmup: int,
    clock: Callable[[], float] = time.process_time,
) -> Times:
    """Run a block of every variant per round, each between two blocks of the floor; every round starts elsewhere."""

    def seconds(variant: Variant) -> float:
        block = TimedBatches(batches, steps, warmup, clock)
        variant(block)
        return block.seconds

    names = list(variants)
    floors = [seconds(floor)]
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            block = seconds(variants[name])
            floors.append(seconds(floor))
            ratios[name].append(2 * block / (floors[-2] + floors[-1]))
    return Times(floors, ratios)


def positive(text: str) -> int:
    """Read a whole number of at least 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def silence_lightning() -> None:
    """Leave out Lightning's advice on trainers, which it gives once per block."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch on one thread, so that CPU time is the time of the work and not of waiting threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Ask the C library, for the rest of the process, not to give freed memory back to the system.

    Otherwise the layout of the heap, a matter of luck, decides whether a step's memory has to be mapped in again at
    the next step: up to 2 ms of a step of 10 ms. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
