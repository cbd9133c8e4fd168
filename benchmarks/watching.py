"""Time what the diagnosing callbacks add to a training step, at their default sampling.

``python -m benchmarks.watching [workload ...] [--rounds N] [--steps N]`` prints, per workload, the step of a watched
module over that of the same module alone: all callbacks together, and each of them. A block has as many steps as lie
between the rarest samples, or a multiple, so that every block holds all that the sampling costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from lightning.pytorch import Callback

from benchmarks.command import Benchmark, chosen
from benchmarks.loops import ours
from benchmarks.records import Goal, Table
from benchmarks.timing import TimedBatches, Times, Variant, interleave, one_thread, positive, silence_lightning
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning.callbacks import (
    Conflict,
    DeadUnits,
    GateUse,
    LearningSpeed,
    Overfitting,
    UnsettledSigma,
    UpdateRatio,
)

WATCHING: tuple[Callable[[], Callback], ...] = (
    DeadUnits,
    UpdateRatio,
    Conflict,
    LearningSpeed,
    Overfitting,
    UnsettledSigma,
    GateUse,
)
ALL, LIMIT = "all of them", 1.03
WORKLOAD_NAMES = ("W1_T8", "W1_T32", "W2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=positive, default=9, help="blocks of every variant (9)")
    parser.add_argument("--steps", type=positive, default=300, help="timed steps in a block (300)")
    parser.add_argument("--each", action="store_true", help="time each callback by itself, too")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each workload."""
    for name in chosen(options, options.workloads, WORKLOADS, "workloads") if options.workloads else WORKLOAD_NAMES:
        times = measure(WORKLOADS[name], options.rounds, options.steps, each=options.each)
        yield Table(
            f"{name}: {options.rounds} rounds of {options.steps} steps",
            {"callbacks": "", "step, to that without": ".3f"},
            [[variant, times.to_floor(variant)] for variant in times.ratios],
            [Goal(ALL, times.to_floor(ALL), LIMIT)],
        )


def measure(workload: Workload, rounds: int, steps: int, *, each: bool) -> Times:
    """Run the module with and without callbacks on a workload."""
    with one_thread():
        return interleave(
            partial(ours, workload),
            watched(workload, each=each),
            workload.batches(),
            rounds=rounds,
            steps=steps,
            warmup=8,
        )


def watched(workload: Workload, *, each: bool) -> Mapping[str, Variant]:
    """Return the module's loop with all callbacks, and with each of them, by name."""
    singly = {make.__name__: [make] for make in WATCHING if isinstance(make, type)} if each else {}
    chosen: dict[str, Sequence[Callable[[], Callback]]] = {ALL: WATCHING, **singly}
    return {name: partial(_train, workload, makers) for name, makers in chosen.items()}


def _train(workload: Workload, makers: Sequence[Callable[[], Callback]], batches: TimedBatches) -> None:
    ours(workload, batches, callbacks=[make() for make in makers])


BENCHMARK = Benchmark("watching", __doc__, add_options, tables, quick=("W1_T8", "--rounds=1"))
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
