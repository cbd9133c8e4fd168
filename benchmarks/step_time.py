"""Time one training step of ``MultiTaskModule`` beside raw PyTorch and plain Lightning, all in one run.

``python -m benchmarks.step_time [workload ...] [--rounds N] [--steps N] [--warmup N] [--keep-memory]`` prints a table
per workload.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median

from benchmarks.command import Benchmark, chosen
from benchmarks.loops import FLOOR, FUSED, OURS, TENSORBOARD, variants
from benchmarks.records import Cell, Goal, Table
from benchmarks.timing import Times, interleave, keep_freed_memory, one_thread, positive, silence_lightning
from benchmarks.workloads import WORKLOADS

GOALS: dict[tuple[str, str], dict[str, float]] = {
    (OURS, FLOOR): {"W1_T8": 0.97, "W1_T32": 0.88},
    (OURS, FUSED): {"W1_T8": 1.05, "W1_T32": 0.96, "W2": 1.015, "W3": 1.02},
    (TENSORBOARD, OURS): {"W1_T8": 1.04},
}
"""The largest ratio of a variant to another one that is good enough, by workload."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(WORKLOADS)}; else all")
    parser.add_argument("--rounds", type=positive, default=9, help="blocks of every variant (9)")
    parser.add_argument("--steps", type=positive, default=20, help="timed steps in a block (20)")
    parser.add_argument("--warmup", type=positive, default=8, help="steps before them that are not timed (8)")
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory (glibc)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each workload."""
    names = chosen(options, options.workloads, WORKLOADS, "workloads")
    if options.keep_memory:
        keep_freed_memory()
    for name in names:
        yield report(name, measure(name, options.rounds, options.steps, options.warmup))


def measure(name: str, rounds: int, steps: int, warmup: int) -> Times:
    """Run every variant on a workload."""
    workload = WORKLOADS[name]
    loops = variants(workload)
    floor = loops.pop(FLOOR)
    with one_thread():
        return interleave(floor, loops, workload.batches(), rounds=rounds, steps=steps, warmup=warmup)


def report(name: str, times: Times) -> Table:
    """Return all ratios, and the goals."""
    rounds, step = len(times.ratios[OURS]), 1e3 * median(times.floor)
    rows: list[list[Cell]] = [[FLOOR, 1.0, None]]
    rows += [[variant, times.to_floor(variant), times.to(variant, FUSED)] for variant in times.ratios]
    ratios = {
        (variant, other): times.to_floor(variant) if other == FLOOR else times.to(variant, other)
        for variant, other in GOALS
    }
    return Table(
        f"{name}: {WORKLOADS[name].num_tasks} tasks, {rounds} rounds; a step of the floor {step:.1f} ms",
        {"one training step": "", "to the raw loop, one Adam": ".3f", "to the raw loop, one fused Adam": ".3f"},
        rows,
        [
            Goal(f"{variant} to {other}", ratios[variant, other], limits[name])
            for (variant, other), limits in GOALS.items()
            if name in limits
        ],
    )


BENCHMARK = Benchmark("step_time", __doc__, add_options, tables, quick=("W1_T8", "--rounds=3", "--keep-memory"))
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
