"""One training step beside that of a raw loop which runs in between, step by step: for steps of 50 ms and more.

``python -m benchmarks.paired_steps [workload ...] [--steps N] [--loops NAME ...] [--keep-memory]``. ``step_time`` lets
blocks of steps take turns, which lie seconds apart where a step is long: who else uses the processor then decides on a
few per cent. Here the raw loop, with one fused Adam and weights of its own, takes a step before every step of a loop.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch.optim import Adam

from benchmarks import step_time
from benchmarks.command import Benchmark, chosen
from benchmarks.loops import FUSED, OURS, RECORDING, TENSORBOARD, raw_step, variants
from benchmarks.records import Cell, Goal, Spread, Table
from benchmarks.timing import TimedBatches, keep_freed_memory, one_thread, positive, silence_lightning
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning.types import Batch

LOOPS = (
    FUSED,
    "Lightning automatic, one fused Adam",
    "Lightning manual, T + 2 fused Adams",
    OURS,
    RECORDING,
    TENSORBOARD,
)
GOALS = step_time.GOALS[OURS, FUSED]
_WARMUP = 6


class Paired(TimedBatches):
    """Hands out batches, and lets the raw loop take a step before each.

    Attributes:
        raw: CPU seconds of each of its steps that count.
        own: CPU seconds between two batches, apart from that step.
    """

    def __init__(self, workload: Workload, steps: int, clock: Callable[[], float] = time.process_time) -> None:
        super().__init__(workload.batches(), steps, _WARMUP, clock)
        torch.manual_seed(0)
        self.workload, self.network = workload, workload.network()
        self.optimizer = Adam(self.network.parameters(), lr=1e-3, fused=True)
        self.raw: list[float] = []
        self.own: list[float] = []

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches and look at the clock."""
        given = self.clock()
        for index in range(len(self)):
            asked = self.clock()
            if index > self.warmup:
                self.own.append(asked - given)
            batch = self.batches[index % len(self.batches)]
            begun = self.clock()
            with torch.enable_grad():
                raw_step(self.workload, self.network, self.optimizer, batch)
            given = self.clock()
            if self.warmup <= index < self.warmup + self.steps:  # the step that the loop takes next counts
                self.raw.append(given - begun)
            yield batch


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(WORKLOADS)}; else W2, W3")
    parser.add_argument("--steps", type=positive, default=100, help="pairs of steps of each loop (100)")
    parser.add_argument("--loops", nargs="+", default=[], metavar="loop", help=f"some of {'; '.join(LOOPS)}")
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory (glibc)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each workload."""
    names = chosen(options, options.workloads or ["W2", "W3"], WORKLOADS, "workloads")
    which = chosen(options, options.loops, LOOPS, "loops")
    if options.keep_memory:
        keep_freed_memory()
    for name in names:
        yield report(name, {loop: measure(WORKLOADS[name], loop, options.steps) for loop in which})


def measure(workload: Workload, loop: str, steps: int) -> Paired:
    """Run one loop with the raw one in between."""
    batches = Paired(workload, steps)
    with one_thread():
        variants(workload)[loop](batches)
    return batches


def report(name: str, found: dict[str, Paired]) -> Table:
    """Return the ratios of each loop, and the goal."""
    rows: list[list[Cell]] = []
    ratios: dict[str, Spread] = {}
    for loop, pairs in found.items():
        ratios[loop] = Spread.of([own / raw for own, raw in zip(pairs.own, pairs.raw, strict=True)])
        rows.append([loop, ratios[loop], median(pairs.own) / median(pairs.raw), 1e3 * median(pairs.raw)])
    return Table(
        f"{name}: {WORKLOADS[name].num_tasks} tasks, {len(next(iter(found.values())).raw)} pairs of steps",
        {"one training step": "", "to the raw step before it": ".3f", "medians": ".3f", "raw step, ms": ".1f"},
        rows,
        [Goal(f"{OURS} to {FUSED}", ratios[OURS], GOALS[name])] if name in GOALS and OURS in found else [],
    )


BENCHMARK = Benchmark("paired_steps", __doc__, add_options, tables, quick=("W3", "--steps=10", "--keep-memory"))
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
