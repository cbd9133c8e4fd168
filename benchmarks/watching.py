"""Time what the diagnosing callbacks add to a training step, at their default sampling.

``python -m benchmarks.watching [workload ...] [--rounds N] [--steps N]`` prints, per workload, the step of a watched
module over that of the same module alone: all callbacks together, and each of them. A block has as many steps as lie
between the rarest samples, or a multiple, so that every block holds all that the sampling costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lightning.pytorch import Callback

from benchmarks.loops import ours
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


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=positive, default=9, help="blocks of every variant (9)")
    parser.add_argument("--steps", type=positive, default=300, help="timed steps in a block (300)")
    parser.add_argument("--each", action="store_true", help="time each callback by itself, too")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"expected workloads among {', '.join(WORKLOADS)}, found {', '.join(unknown)}")
    for name in options.workloads or WORKLOAD_NAMES:
        times = measure(WORKLOADS[name], options.rounds, options.steps, each=options.each)
        print(f"\n### {name}: {options.rounds} rounds of {options.steps} steps\n")
        print("| callbacks | step, to that without |\n| --- | --- |")
        for variant in times.ratios:
            print(f"| {variant} | {times.to_floor(variant)} |", flush=True)
        verdict = "met" if times.to_floor(ALL).median <= LIMIT else "missed"
        print(f"\n- {ALL}: goal {LIMIT:.2f}: {verdict}", flush=True)


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


if __name__ == "__main__":
    silence_lightning()
    main()
