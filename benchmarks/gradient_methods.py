"""Time every gradient method beside the equal-weight step and beside torchjd called by hand, all in one run.

``python -m benchmarks.gradient_methods [workload ...] [--methods ...] [--rounds N] [--steps N] [--no-memory]
[--keep-memory]`` prints a table per workload: CPU time of one thread, as ratios to ``MultiTaskModule`` with equal
weights in the same round; and the growth of memory in a process of its own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from benchmarks.command import Benchmark, chosen
from benchmarks.gradient_loops import (
    CASES,
    EQUAL,
    FEATURES,
    FORWARD,
    GRADIENTS,
    RAW,
    Loops,
    floor,
    loops,
    names,
    rival,
)
from benchmarks.memory import peak_growth
from benchmarks.records import Cell, Goal, Table
from benchmarks.timing import (
    TimedBatches,
    Times,
    interleave,
    keep_freed_memory,
    one_thread,
    positive,
    silence_lightning,
)

EXACT_GOALS = {"W1_T8": 2.35, "W1_T32": 2.8, "W1_T128": 3.0, "W2": 1.5, "W3": 2.2}
"""The largest ratio to equal weights that is good enough for a gradient method, by workload."""
FEATURE_GOALS = {"W1_T8": 1.12, "W1_T32": 1.15, "W3": 1.05}
RIVAL_GOALS = {("W1_T8", "NashMTL"): 0.45, ("W1_T8", "CAGrad"): 0.85}
"""The largest ratio to torchjd, where it is not :data:`EVERY_RIVAL`."""
EVERY_RIVAL, RIVAL_MEAN = 0.97, 0.97
GROWTH_GOAL = 1.15
MEMORY_GOALS = {"W1_T32": 1.7, "W1_T128": 1.85}
_MEMORY_STEPS = 4
_MANY = 128  # tasks, for which few rounds must do
_FEW_ROUNDS = 3
_TASK_STEPS = 160  # steps times tasks that a block may have


@dataclass(frozen=True)
class Case:
    """What was measured on one workload: times, and MiB by loop."""

    loops: Loops
    times: Times
    memory: Mapping[str, float]

    def backward(self, method: str) -> float:
        """Return the seconds of the backward, solver and all: the raw one's, and what more the method's step takes."""
        to = {name: self.times.to_floor(name).median for name in (method, RAW, FORWARD)}
        return (to[method] - 1 + to[RAW] - to[FORWARD]) * median(self.times.floor)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(CASES)}; else all")
    parser.add_argument("--methods", nargs="+", default=[], metavar="method", help=f"some of {', '.join(names())}")
    parser.add_argument("--rounds", type=positive, default=5, help="blocks of every loop (5; for 128 tasks at most 3)")
    parser.add_argument("--steps", type=positive, default=12, help="timed steps in a block (12; fewer for many tasks)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory (glibc)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each workload."""
    workloads = chosen(options, options.workloads, CASES, "workloads")
    methods = chosen(options, options.methods, names(), "methods")
    if options.keep_memory:
        keep_freed_memory()
    cases: dict[str, Case] = {}
    for name in workloads:
        cases[name] = measure(name, methods, options.rounds, options.steps, memory=not options.no_memory)
        yield report(name, cases[name])
    yield summary(cases)


# --------------------------------------------------------------------------------------------------------- measurement
def measure(name: str, methods: Sequence[str], rounds: int, steps: int, *, memory: bool = True) -> Case:
    """Let all loops of a workload take turns; then run each in a process of its own."""
    workload = CASES[name]
    found = loops(workload, methods)
    rounds = min(rounds, _FEW_ROUNDS) if workload.num_tasks >= _MANY else rounds
    steps = max(1, min(steps, max(3, _TASK_STEPS // workload.num_tasks)))
    with one_thread():
        times = interleave(
            floor(workload), found.all, workload.batches(), rounds=rounds, steps=steps, warmup=max(2, steps // 3)
        )
    grown = {each: _growth(name, methods, each) for each in [EQUAL, *found.all] if each != FORWARD} if memory else {}
    return Case(found, times, {each: value for each, value in grown.items() if value is not None})


class _FewSteps:
    """Runs a loop, looked up by name: loops themselves cannot be sent to another process."""

    def __init__(self, case: str, methods: Sequence[str], loop: str) -> None:
        self.case, self.methods, self.loop = case, list(methods), loop

    def __call__(self) -> None:
        workload = CASES[self.case]
        run = floor(workload) if self.loop == EQUAL else loops(workload, self.methods).all[self.loop]
        run(TimedBatches(workload.batches(), steps=_MEMORY_STEPS - 2, warmup=1))


def _growth(case: str, methods: Sequence[str], loop: str) -> float | None:
    return peak_growth(_FewSteps(case, methods, loop))


# -------------------------------------------------------------------------------------------------------------- report
COLUMNS = {
    "method": "", "step to equal weights": ".3f", "torchjd's to equal weights": ".3f", "to torchjd's": ".3f",
    "memory, MiB": ",.0f", "memory to equal weights": ".2f", "torchjd's memory, MiB": ",.0f",
    "torchjd's memory to equal weights": ".2f",
}  # fmt: skip


def report(name: str, case: Case) -> Table:
    """Return what was found on a workload, and its goals."""
    times = case.times
    rounds, step = len(times.ratios[RAW]), 1e3 * median(times.floor)
    rows: list[list[Cell]] = [[EQUAL, 1.0, None, None, *_memory(case, EQUAL), None, None]]
    for method in [*case.loops.raw, *case.loops.ours]:
        theirs: list[Cell] = [None, None]
        if method in case.loops.theirs:
            theirs = [times.to_floor(rival(method)), times.to(method, rival(method))]
        memory = [*_memory(case, method), *_memory(case, rival(method))]
        rows.append([method, times.to_floor(method), *theirs, *memory])
    return Table(
        f"{name}: {CASES[name].num_tasks} tasks, {rounds} rounds; a step with equal weights {step:.1f} ms",
        COLUMNS,
        rows,
        [*_goals(name, case)],
    )


def _memory(case: Case, loop: str) -> list[Cell]:
    """Return the MiB of a loop, and their ratio to those of equal weights; None where they are not known."""
    if loop not in case.memory or EQUAL not in case.memory:
        return [None, None]
    return [case.memory[loop], case.memory[loop] / case.memory[EQUAL]]


def _goals(name: str, case: Case) -> Iterator[Goal]:
    for kind, limits in ((GRADIENTS, EXACT_GOALS), ([m for m in names() if m.endswith(FEATURES)], FEATURE_GOALS)):
        for method in [method for method in case.loops.ours if method in kind and name in limits]:
            yield Goal(f"{method} to {EQUAL}", case.times.to_floor(method), limits[name])
    for method in case.loops.theirs:
        limit = RIVAL_GOALS.get((name, method), EVERY_RIVAL)
        yield Goal(f"{method} to torchjd's", case.times.to(method, rival(method)), limit)
    if name in MEMORY_GOALS and EQUAL in case.memory:
        for method in [method for method in case.loops.ours if method in GRADIENTS]:
            yield Goal(f"memory of {method} to {EQUAL}", case.memory[method] / case.memory[EQUAL], MEMORY_GOALS[name])


def summary(cases: Mapping[str, Case]) -> Table:
    """Return what takes several workloads to say."""
    goals = []
    ratios = [c.times.to(m, rival(m)).median for c in cases.values() for m in c.loops.theirs]
    if ratios:
        goals.append(Goal(f"geometric mean of {len(ratios)} ratios to torchjd's", geometric_mean(ratios), RIVAL_MEAN))
    few, many = cases.get("W1_T8"), cases.get("W1_T128")
    if few is not None and many is not None:
        doublings = math.log(CASES["W1_T128"].num_tasks / CASES["W1_T8"].num_tasks)
        for method in few.loops.ours:
            exponent = math.log(many.backward(method) / few.backward(method)) / doublings
            goals.append(Goal(f"growth exponent of {method}'s backward", exponent, GROWTH_GOAL))
    return Table("Over all workloads", goals=goals)


BENCHMARK = Benchmark(
    "gradient_methods", __doc__, add_options, tables,
    quick=("W1_T8", "--methods", "MGDA", f"MGDA{FEATURES}", "UPGrad", "--rounds=2", "--no-memory"),
)  # fmt: skip
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
