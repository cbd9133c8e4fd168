"""Time the step by the number of tasks, from 2 to 256, beside a raw loop; and how fast it grows.

``python -m benchmarks.scaling_tasks [tasks ...] [--rounds N] [--keep-memory]``: W1 with so many tasks, CPU time of one
thread. In each round all numbers of tasks take their turn, and ours runs between two blocks of the raw loop with one
fused Adam, so that a busy minute is shared by all. The growth exponent is the slope, between two numbers of tasks, of
the logarithm of a step's time over that of the number: 1 is a step that takes as long per task, however many there are.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.command import Benchmark
from benchmarks.loops import FUSED, OURS, ours, raw
from benchmarks.records import Cell, Goal, Spread, Table
from benchmarks.timing import TimedBatches, Variant, keep_freed_memory, one_thread, positive, silence_lightning
from benchmarks.workloads import table

TASKS = (2, 4, 8, 16, 32, 64, 128, 256)
FROM, TO, GROWTH = 8, 128, 0.85
"""The exponent between these numbers of tasks is to be at most this."""
PLAIN = f"{OURS}, fast paths off"
_WARMUP = 8
_TASK_STEPS = 320  # steps times tasks that a block has, or so


@dataclass
class Found:
    """Seconds of a step with one number of tasks, a number for each round.

    Attributes:
        floors: of the raw loop, the mean of the two blocks around.
        steps: of our loops, by name.
    """

    floors: list[float] = field(default_factory=list)
    steps: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], PLAIN: []})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("tasks", nargs="*", type=positive, help=f"numbers of tasks ({', '.join(map(str, TASKS))})")
    parser.add_argument("--rounds", type=positive, default=5, help="blocks of every loop (5)")
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory (glibc)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure all numbers of tasks."""
    if options.keep_memory:
        keep_freed_memory()
    yield report(measure(options.tasks or TASKS, options.rounds))


def measure(tasks: Sequence[int], rounds: int) -> dict[int, Found]:
    """Let all loops take turns with each number of tasks."""
    found = {number: Found() for number in tasks}
    with one_thread():
        for _ in range(rounds):
            for number, one in found.items():
                workload = table(number)
                floor = partial(raw, workload, fused=True)
                blocks = [_seconds(floor, number)]
                for name, fast in ((OURS, True), (PLAIN, False)):
                    one.steps[name].append(_seconds(partial(ours, workload, fast_paths=fast), number))
                    blocks.append(_seconds(floor, number))
                one.floors.append(sum(blocks) / len(blocks))
    return found


def _seconds(loop: Variant, tasks: int) -> float:
    block = TimedBatches(table(tasks).batches(), max(3, min(20, _TASK_STEPS // tasks)), _WARMUP)
    loop(block)
    return block.seconds


def exponent(few: Sequence[float], many: Sequence[float], ratio: float) -> Spread:
    """Return the growth exponent of times, round by round, for ``ratio`` times as many tasks."""
    return Spread.of([math.log(b / a) / math.log(ratio) for a, b in zip(few, many, strict=True)])


def report(found: dict[int, Found]) -> Table:
    """Return the times by number of tasks, and the exponent."""
    rows: list[list[Cell]] = [
        [
            number,
            Spread.of([1e3 * floor for floor in one.floors]),
            *(Spread.of([1e3 * step for step in one.steps[name]]) for name in (OURS, PLAIN)),
            *(Spread.of([a / b for a, b in zip(one.steps[name], one.floors, strict=True)]) for name in (OURS, PLAIN)),
        ]
        for number, one in found.items()
    ]
    columns = {"tasks": "", f"{FUSED}, ms": ".1f", f"{OURS}, ms": ".1f", f"{PLAIN}, ms": ".1f"}
    columns |= {f"{name}, to the raw loop": ".3f" for name in (OURS, PLAIN)}
    few, many = found.get(FROM), found.get(TO)
    goals, notes = [], []
    if few is not None and many is not None:
        grown = {name: exponent(few.steps[name], many.steps[name], TO / FROM) for name in few.steps}
        goals.append(Goal(f"growth exponent of the step from {FROM} to {TO} tasks", grown[OURS], GROWTH))
        notes += [
            f"the same with fast paths off: {grown[PLAIN]}",
            f"the same of the raw loop: {exponent(few.floors, many.floors, TO / FROM)}",
        ]
    return Table(
        f"W1 by the number of tasks: {len(next(iter(found.values())).floors)} rounds", columns, rows, goals, notes
    )


BENCHMARK = Benchmark(
    "scaling_tasks", __doc__, add_options, tables, quick=("2", "8", "32", "128", "--rounds=2", "--keep-memory")
)
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
