"""Time equal heads as one product beside one after the other, by sizes: the table behind the rule that chooses.

``python -m benchmarks.equal_heads [--rounds N] [--threads N]``: forward and backward of T heads of two layers, D to H
to 1, on the same B rows of features. The time is the shortest of all rounds, in which both ways take turns: what a busy
machine adds is never negative. ``mtl_lightning/core/network/stacking_rule.py`` holds the rule.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.command import Benchmark
from benchmarks.records import Cell, Table
from benchmarks.timing import keep_freed_memory, positive
from mtl_lightning.architectures import MLPHead
from mtl_lightning.core.network.graph import TaskGraph, run_heads
from mtl_lightning.core.network.stacked_heads import Outputs, StackedHeads
from mtl_lightning.core.network.stacking_rule import runs_together
from mtl_lightning.tasks import Regression, Task
from mtl_lightning.types import TargetSpec

SHAPES = [
    *((64, 32, 16), (64, 256, 64), (512, 64, 32), (512, 256, 64), (2048, 256, 64), (256, 1024, 64)),
    *((64, 512, 128), (64, 512, 256), (512, 256, 256)),
]
SIZES = [(tasks, *shape) for tasks in (2, 3, 4, 8, 32) for shape in SHAPES if tasks < 32 or shape[0] * shape[2] < 2**16]
"""T, B, D, H."""
_SECONDS = 0.03  # of a way and round


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--rounds", type=positive, default=5, help="turns of every way (5)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of PyTorch (1)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure all sizes."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        rows = [measure(*sizes, rounds=options.rounds) for sizes in SIZES]
    finally:
        torch.set_num_threads(before)
    columns = {"tasks": "", "rows": "", "features": "", "hidden": "", "one after the other, ms": ".2f"}
    columns |= {"as one, ms": ".2f", "ratio": ".2f", "the rule": ""}
    yield Table(f"Equal heads as one, {options.threads} thread(s)", columns, rows)


def measure(tasks: int, rows: int, width: int, hidden: int, *, rounds: int) -> list[Cell]:
    """Return a row of the table."""
    plain, together = made(tasks, rows, width, hidden)
    calls = max(1, int(_SECONDS / _seconds(plain, 2)))
    times = [(_seconds(plain, calls), _seconds(together, calls)) for _ in range(rounds)]
    before, after = map(min, zip(*times, strict=True))
    chosen = runs_together(tasks, torch.empty(rows, width), hidden, (width + 1) * hidden)
    verdict = "as one" if chosen else "one after the other"
    return [tasks, rows, width, hidden, 1e3 * before, 1e3 * after, after / before, verdict]


def made(tasks: int, rows: int, width: int, hidden: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a forward and backward of heads one after the other, and one of them as one."""
    torch.manual_seed(0)
    names = [f"t{index}" for index in range(tasks)]
    heads: Any = nn.ModuleDict({name: MLPHead((width,), 1, hidden=[hidden]) for name in names})
    kinds: dict[str, Task] = {name: Regression(TargetSpec()) for name in names}
    graph, inputs = TaskGraph(names), torch.randn(rows, width, requires_grad=True)

    def step(stacked: StackedHeads | None) -> None:
        heads.zero_grad()
        outputs = run_heads(graph, names, dict.fromkeys(names, inputs), heads, kinds, stacked)
        found = outputs.together(names) if isinstance(outputs, Outputs) else [*outputs.values()]
        together = found.flatten(0, 1) if isinstance(found, torch.Tensor) else torch.cat(found)
        together.square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    return partial(step, None), partial(step, StackedHeads(lambda *_: True))


def _seconds(run: Callable[[], None], calls: int) -> float:
    """Return the shortest CPU time of a call."""
    best = float("inf")
    for _ in range(calls + 1):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


BENCHMARK = Benchmark("equal_heads", __doc__, add_options, tables, quick=("--rounds=1",))
main = BENCHMARK.main

if __name__ == "__main__":
    main()
