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
from benchmarks.timing import (
    TimedBatches,
    Times,
    interleave,
    keep_freed_memory,
    one_thread,
    positive,
    silence_lightning,
)

EXACT_GOALS = {"W1_T8": 2.45, "W1_T32": 3.0, "W1_T128": 3.0, "W2": 1.5, "W3": 2.3}
"""The largest ratio to equal weights that is good enough for a gradient method, by workload."""
FEATURE_GOALS = {"W1_T8": 1.25, "W1_T32": 1.25, "W3": 1.10}
RIVAL_GOALS = {("W1_T8", "NashMTL"): 0.45, ("W1_T8", "CAGrad"): 0.85}
"""The largest ratio to torchjd, where it is not :data:`EVERY_RIVAL`."""
EVERY_RIVAL, RIVAL_MEAN = 1.05, 1.00
GROWTH_GOAL = 1.15
MEMORY_GOALS = {"W1_T32": 1.7}
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


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gradient_methods", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(CASES)}; else all")
    parser.add_argument("--methods", nargs="+", default=names(), metavar="method", help=f"some of {', '.join(names())}")
    parser.add_argument("--rounds", type=positive, default=5, help="blocks of every loop (5; for 128 tasks at most 3)")
    parser.add_argument("--steps", type=positive, default=12, help="timed steps in a block (12; fewer for many tasks)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--keep-memory", action="store_true", help="let the C library keep freed memory (glibc)")
    options = parser.parse_args(argv)
    for found, known, kind in ((options.workloads, [*CASES], "workloads"), (options.methods, names(), "methods")):
        if unknown := [name for name in found if name not in known]:
            parser.error(f"expected {kind} among {', '.join(known)}, found {', '.join(unknown)}")
    if options.keep_memory:
        keep_freed_memory()
    cases: dict[str, Case] = {}
    for name in options.workloads or CASES:
        cases[name] = measure(name, options.methods, options.rounds, options.steps, memory=not options.no_memory)
        for line in report(name, cases[name]):
            print(line, flush=True)
    for line in summary(cases):
        print(line, flush=True)


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
def report(name: str, case: Case) -> Iterator[str]:
    """Yield a table of a workload in Markdown, and what became of its goals."""
    times, equal = case.times, case.memory.get(EQUAL)
    rounds, step = len(times.ratios[RAW]), 1e3 * median(times.floor)
    yield f"\n### {name}: {CASES[name].num_tasks} tasks, {rounds} rounds; a step with equal weights {step:.1f} ms\n"
    yield "| method | step to equal weights | torchjd's to equal weights | to torchjd's | memory, MiB | torchjd's |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield f"| {EQUAL} | 1 | | | {_mebibytes(case, EQUAL, equal)} | |"
    for method in [*case.loops.raw, *case.loops.ours]:
        theirs = [""] * 3
        if method in case.loops.theirs:
            other = rival(method)
            theirs = [str(times.to_floor(other)), str(times.to(method, other)), _mebibytes(case, other, equal)]
        own = [str(times.to_floor(method)), *theirs[:2], _mebibytes(case, method, equal), theirs[2]]
        yield f"| {method} | {' | '.join(own)} |"
    yield ""
    yield from _verdicts(name, case)


def _verdicts(name: str, case: Case) -> Iterator[str]:
    for kind, limits in ((GRADIENTS, EXACT_GOALS), ([m for m in names() if m.endswith(FEATURES)], FEATURE_GOALS)):
        for method in [method for method in case.loops.ours if method in kind and name in limits]:
            yield _judged(f"{method} to {EQUAL}", case.times.to_floor(method).median, limits[name])
    for method in case.loops.theirs:
        limit = RIVAL_GOALS.get((name, method), EVERY_RIVAL)
        yield _judged(f"{method} to torchjd's", case.times.to(method, rival(method)).median, limit)
    if name in MEMORY_GOALS and EQUAL in case.memory:
        for method in [method for method in case.loops.ours if method in GRADIENTS]:
            ratio = case.memory[method] / case.memory[EQUAL]
            yield _judged(f"memory of {method} to {EQUAL}", ratio, MEMORY_GOALS[name])


def summary(cases: Mapping[str, Case]) -> Iterator[str]:
    """Yield what takes several workloads to say."""
    yield "\n### Over all workloads\n"
    ratios = [c.times.to(m, rival(m)).median for c in cases.values() for m in c.loops.theirs]
    if ratios:
        yield _judged(f"geometric mean of {len(ratios)} ratios to torchjd's", geometric_mean(ratios), RIVAL_MEAN)
    few, many = cases.get("W1_T8"), cases.get("W1_T128")
    if few is None or many is None:
        return
    doublings = math.log(CASES["W1_T128"].num_tasks / CASES["W1_T8"].num_tasks)
    for method in few.loops.ours:
        exponent = math.log(many.backward(method) / few.backward(method)) / doublings
        yield _judged(f"growth exponent of {method}'s backward", exponent, GROWTH_GOAL)


def _judged(what: str, found: float, limit: float) -> str:
    return f"- {what}: {found:.3f}, goal {limit:.2f}: {'met' if found <= limit else 'missed'}"


def _mebibytes(case: Case, loop: str, equal: float | None) -> str:
    if loop not in case.memory or equal is None:
        return ""
    return f"{case.memory[loop]:.0f} ({case.memory[loop] / equal:.2f})"


if __name__ == "__main__":
    silence_lightning()
    main()
