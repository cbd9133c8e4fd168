"""Time how weights follow from P x P inner products, beside torchjd's solvers, all in one run.

``python -m benchmarks.solvers [tasks ...] [--rounds N] [--block SECONDS]`` prints a table per number of tasks: the CPU
time of one thread, medians and quartiles over rounds in which ours and theirs take turns, their ratio in the same
round, and how far our weights are from what defines them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchjd import aggregation

from benchmarks.command import Benchmark
from benchmarks.records import Cell, Goal, Spread, Table
from benchmarks.timing import one_thread, positive
from mtl_lightning.balancing import MGDA, AlignedMTL, CAGrad, DualProj, FairGrad, NashMTL, PCGrad, UPGrad
from mtl_lightning.balancing.rows import GramianBalancer

TASKS = (2, 8, 32, 128)
GOALS = {("PCGrad", 128): 10.0, ("NashMTL", 128): 10.0, ("UPGrad", 128): 100.0}
"""Milliseconds, by method and number of tasks."""
RESIDUAL_GOAL = 1e-6
_MOST_CALLS = 500

Solve: TypeAlias = Callable[[], Tensor]
Residual: TypeAlias = Callable[[Any, Tensor, Tensor], float]


@dataclass(frozen=True)
class Method:
    """Ours and torchjd's, made from the number of tasks, and the residual of our balancer, rows (T, D) and weights."""

    ours: Callable[[int], GramianBalancer]
    theirs: Callable[[int], Any]
    residual: Residual


@dataclass(frozen=True)
class Row:
    """What was measured of one method: milliseconds a call; theirs and the ratio None where it is not installed."""

    ours: Spread
    theirs: Spread | None
    ratio: Spread | None
    residual: float
    missing: str = ""


# ----------------------------------------------------------------------------------------------------------- residuals
def bargaining(_balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """``max_k |a_k (G a)_k - 1|``, once the limit on the update's length is taken back."""
    products = weights * (rows @ (weights @ rows))
    return float((products * (len(rows) / products.sum()) - 1).abs().max())


def fairness(balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """The largest relative difference between the sides of FairGrad's equation."""
    return float(((rows @ (weights @ rows)) * weights ** (1 / balancer.alpha) - 1).abs().max())


def nearness(_balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """By how much a corner of the hull is on the near side of its shortest point, over its squared length."""
    point = weights @ rows
    return float((1 - (rows @ point) / (point @ point)).clamp(min=0).max())


def gap(balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """How much less the worst task progresses than is possible within CAGrad's radius, over the squared mean length."""
    mean, added = rows.mean(0), weights - 1 / len(rows)
    point = (added / added.sum()) @ rows
    bound = point @ mean + balancer.c * mean.norm() * point.norm()
    return float((bound - (rows @ (weights @ rows)).min()) / (mean @ mean))


def projection(_balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """How far the mean gradient plus what is added to it is from its projection, all gradients at length 1."""
    return _optimality(rows, weights, torch.full_like(weights, 1 / len(weights)))


def projections(_balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """The same for each gradient's projection, found by itself, and how far their mean is from the weights."""
    total, worst = torch.zeros_like(weights), 0.0
    losses, present = torch.ones(len(rows)), torch.ones(len(rows), dtype=torch.bool)
    for wanted in torch.eye(len(rows), dtype=rows.dtype):
        found = DualProj(len(rows), pref_vector=wanted.tolist()).task_weights(rows @ rows.T, losses, present)
        worst = max(worst, _optimality(rows, found, wanted))
        total += found / len(rows)
    return max(worst, float((weights - total).abs().max()))


def _optimality(rows: Tensor, weights: Tensor, wanted: Tensor) -> float:
    """The largest violation of: nothing is taken away, no task harmed, and only what would be harmed is added."""
    lengths = rows.norm(dim=1)
    progress, added = rows @ (weights @ rows) / lengths, (weights - wanted) * lengths
    unit = (wanted @ rows).norm()
    violations = torch.stack([-progress / unit, -added / unit, (progress * added).abs() / unit**2])
    return max(0.0, float(violations.max()))


def alignment(_balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """The difference to what the singular value decomposition of the rows gives, over its length."""
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    expected = values[-1] * (left @ right).mean(0)
    return float((weights @ rows - expected).norm() / expected.norm())


def surgery(balancer: Any, rows: Tensor, weights: Tensor) -> float:
    """The difference to projecting the rows themselves, one after the other in the same order, over its length."""
    orders = balancer.draws.uniform(len(rows), len(rows), like=rows).argsort(dim=1)
    total = torch.zeros_like(rows[0])
    for task, order in enumerate(orders.tolist()):
        current = rows[task]
        for other in order:
            if other != task:
                current = current - (current @ rows[other]).clamp(max=0) / (rows[other] @ rows[other]) * rows[other]
        total = total + current
    return float((weights @ rows - total).norm() / total.norm())


METHODS: Mapping[str, Method] = {
    "MGDA": Method(MGDA, lambda _: aggregation.MGDA().gramian_weighting, nearness),
    "NashMTL": Method(NashMTL, lambda tasks: aggregation.NashMTL(tasks).weighting, bargaining),
    "PCGrad": Method(PCGrad, lambda _: aggregation.PCGrad().gramian_weighting, surgery),
    "CAGrad": Method(CAGrad, lambda _: aggregation.CAGrad(0.5).gramian_weighting, gap),
    "UPGrad": Method(UPGrad, lambda _: aggregation.UPGrad().gramian_weighting, projections),
    "DualProj": Method(DualProj, lambda _: aggregation.DualProj().gramian_weighting, projection),
    "FairGrad": Method(FairGrad, lambda _: aggregation.FairGrad(1.0).gramian_weighting, fairness),
    "AlignedMTL": Method(AlignedMTL, lambda _: aggregation.AlignedMTL().gramian_weighting, alignment),
}


# --------------------------------------------------------------------------------------------------------- measurement
def measure(method: Method, tasks: int, rounds: int, block: float) -> Row:
    """Let ours and theirs take turns on the inner products of random rows, which conflict in every second pair."""
    rows = torch.randn(tasks, 20 * tasks, generator=torch.Generator().manual_seed(tasks), dtype=torch.float64)
    gramian, losses = rows @ rows.T, torch.ones(tasks, dtype=torch.float64)
    balancer, present = method.ours(tasks), torch.ones(tasks, dtype=torch.bool)
    solvers: dict[str, Solve] = {"ours": lambda: balancer.task_weights(gramian, losses, present)}
    missing = ""
    try:
        weighting = method.theirs(tasks)
        by_rows = not hasattr(aggregation, f"{type(weighting).__name__}")  # what needs the rows has no public class
        solvers["theirs"] = lambda: weighting(rows if by_rows else gramian)
    except ImportError as error:
        missing = str(error).splitlines()[0]
    times = _take_turns(solvers, rounds, block)
    ours, theirs = times["ours"], times.get("theirs")
    ratio = None if theirs is None else Spread.of([b / a for a, b in zip(ours, theirs, strict=True)])
    residual = method.residual(balancer, rows, solvers["ours"]())
    return Row(Spread.of(ours), None if theirs is None else Spread.of(theirs), ratio, residual, missing)


def _take_turns(solvers: Mapping[str, Solve], rounds: int, block: float) -> dict[str, list[float]]:
    """Return milliseconds a call, one number per round, from blocks of calls that take ``block`` seconds or so."""
    with one_thread(), torch.no_grad():
        for solve in solvers.values():
            solve()  # what is set up at the first call is not timed
        calls = {name: min(_MOST_CALLS, math.ceil(block / _seconds(solve, 1))) for name, solve in solvers.items()}
        times: dict[str, list[float]] = {name: [] for name in solvers}
        for turn in range(rounds):
            for name in list(solvers)[:: 1 if turn % 2 == 0 else -1]:
                times[name].append(1e3 * _seconds(solvers[name], calls[name]) / calls[name])
    return times


def _seconds(solve: Solve, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        solve()
    return max(time.process_time() - start, 1e-7)


# -------------------------------------------------------------------------------------------------------------- report
def report(tasks: int, found: Mapping[str, Row]) -> Table:
    """Return times, ratios and residuals of all methods, and the goals."""
    rows: list[list[Cell]] = [
        [name, row.ours, row.missing or row.theirs, row.ratio, row.residual] for name, row in found.items()
    ]
    goals = [
        Goal(name, row.ours, GOALS[name, tasks], unit=" ms", form=".2f")
        for name, row in found.items()
        if (name, tasks) in GOALS
    ]
    worst = max(found, key=lambda name: found[name].residual)
    return Table(
        f"{tasks} tasks: milliseconds a call, median (quartiles)",
        {"method": "", "ours": ".3f", "torchjd": ".3f", "torchjd / ours": ".1f", "residual": ".0e"},
        rows,
        [*goals, Goal(f"largest residual ({worst})", found[worst].residual, RESIDUAL_GOAL, form=".0e")],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("tasks", nargs="*", type=positive, help=f"numbers of tasks ({', '.join(map(str, TASKS))})")
    parser.add_argument("--rounds", type=positive, default=9, help="turns of each solver (9)")
    parser.add_argument("--block", type=float, default=0.02, help="seconds that a turn takes, or so (0.02)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure all methods for each number of tasks."""
    for tasks in options.tasks or TASKS:
        measured = {name: measure(method, tasks, options.rounds, options.block) for name, method in METHODS.items()}
        yield report(tasks, measured)


BENCHMARK = Benchmark("solvers", __doc__, add_options, tables, quick=("2", "8", "32", "--rounds=3"))
main = BENCHMARK.main

if __name__ == "__main__":
    main()
