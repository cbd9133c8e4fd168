"""Time one training step of ``MultiTaskModule`` beside raw PyTorch and plain Lightning, all in one run.

``python -m benchmarks.step_time [workload ...] [--rounds N] [--steps N] [--warmup N] [--keep-memory]`` prints a table
per workload.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.loops import FLOOR, FUSED, OURS, RECORDING, variants
from benchmarks.timing import Times, interleave, keep_freed_memory, one_thread, positive, silence_lightning
from benchmarks.workloads import WORKLOADS

GOALS: dict[tuple[str, str], dict[str, float]] = {
    (OURS, FLOOR): {"W1_T8": 1.00, "W1_T32": 1.00, "W3": 0.85},
    (OURS, FUSED): {"W1_T8": 1.08, "W3": 1.05},
    (RECORDING, OURS): {"W1_T8": 1.04, "W1_T32": 1.04, "W2": 1.04, "W3": 1.04},
}
"""The largest ratio of a variant to another one that is good enough, by workload."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(WORKLOADS)}; else all")
    parser.add_argument("--rounds", type=positive, default=9, help="blocks of every variant (9)")
    parser.add_argument("--steps", type=positive, default=20, help="timed steps in a block (20)")
    parser.add_argument("--warmup", type=positive, default=8, help="steps before them that are not timed (8)")
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory (glibc)")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"expected workloads among {', '.join(WORKLOADS)}, found {', '.join(unknown)}")
    if options.keep_memory:
        keep_freed_memory()
    for name in options.workloads or WORKLOADS:
        times = measure(name, options.rounds, options.steps, options.warmup)
        for line in report(name, times):
            print(line, flush=True)


def measure(name: str, rounds: int, steps: int, warmup: int) -> Times:
    """Run every variant on a workload."""
    workload = WORKLOADS[name]
    loops = variants(workload)
    floor = loops.pop(FLOOR)
    with one_thread():
        return interleave(floor, loops, workload.batches(), rounds=rounds, steps=steps, warmup=warmup)


def report(name: str, times: Times) -> Iterator[str]:
    """Yield a table of ratios in Markdown, and what became of the goals."""
    rounds, step = len(times.ratios[OURS]), 1e3 * median(times.floor)
    yield f"\n### {name}: {WORKLOADS[name].num_tasks} tasks, {rounds} rounds; a step of the floor {step:.1f} ms\n"
    yield "| one training step | to the raw loop, one Adam | to the raw loop, one fused Adam |"
    yield "| --- | --- | --- |"
    yield f"| {FLOOR} | 1 | |"
    for variant in times.ratios:
        yield f"| {variant} | {times.to_floor(variant)} | {times.to(variant, FUSED)} |"
    yield ""
    for (variant, other), limits in GOALS.items():
        if name in limits:
            ratio = times.to_floor(variant) if other == FLOOR else times.to(variant, other)
            verdict = "met" if ratio.median <= limits[name] else "missed"
            yield f"- {variant} to {other}: {ratio}, goal {limits[name]:.2f}: {verdict}"


if __name__ == "__main__":
    silence_lightning()
    main()
