"""Time what ``compile: true`` gives: the step compiled over the step as it is, and how long compiling takes.

``python -m benchmarks.compiled [case ...] [--rounds N] [--steps N]`` prints one table: the workloads with a shared
bottom, and every architecture on W1 with 4 tasks. Steps are CPU time of one thread, compiled and plain in turns.
Compiling is the CPU time, that of the C++ compiler's processes included, of a first step whose graphs are in no cache:
training only, all tasks there.
"""

from __future__ import annotations

import argparse
import inspect
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from benchmarks.command import Benchmark, chosen
from benchmarks.loops import ours
from benchmarks.records import Spread, Table
from benchmarks.timing import TimedBatches, Times, interleave, one_thread, positive, silence_lightning
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning import architectures
from mtl_lightning.architectures import MLP, Architecture, MLPHead, Product, SharedBottom
from mtl_lightning.tasks import BinaryClassification, Task
from mtl_lightning.types import Batch

COMPILED = "compiled"
COLUMNS = {
    "case": "",
    "a step as it is, ms": ".1f",
    "compiled, to that": ".3f",
    "compiling, s": ".1f",
    "graphs": "d",
    "steps until it pays": "",
}


@dataclass(frozen=True)
class YesOrNo(Workload):
    """The same with tasks that are yes or no, for architectures whose outputs are logits."""

    def tasks(self) -> dict[str, Task]:
        """Make the tasks, by name."""
        return {f"t{index}": BinaryClassification() for index in range(self.num_tasks)}

    def batches(self) -> list[Batch]:
        """Make the batches: a target (B,) of 0 and 1 per task."""
        made = super().batches()
        return [
            {**batch, "targets": {name: (target > 0).float() for name, target in batch["targets"].items()}}
            for batch in made
        ]


TABLE = ((64,), 512, 4, partial(MLP, hidden=[256, 256]), partial(MLPHead, hidden=[64]))


def cases() -> dict[str, tuple[Workload, dict[str, Any]]]:
    """Return the workloads, then every architecture, by name: what to train on, and options of the module."""
    made: dict[str, tuple[Workload, dict[str, Any]]] = {name: (workload, {}) for name, workload in WORKLOADS.items()}
    exported = (getattr(architectures, name) for name in architectures.__all__)
    for cls in exported:
        if not (inspect.isclass(cls) and issubclass(cls, Architecture)) or inspect.isabstract(cls):
            continue
        workload: Workload = (YesOrNo if cls.final else Workload)(*TABLE)
        options: dict[str, Any] = {"architecture": cls}
        if "encoder" in inspect.signature(cls).parameters and cls is not architectures.TaskConditionedNorm:
            options["architecture"] = partial(cls, encoder=workload.encoder)
        if cls is Product:
            shared = partial(SharedBottom, encoder=workload.encoder)
            options = {"architecture": partial(Product, architecture=shared), "heads": None}
        made[cls.__name__] = (workload, options)
    return made


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("cases", nargs="*", metavar="case", help=f"some of {', '.join(cases())}; else all")
    parser.add_argument("--rounds", type=positive, default=5, help="blocks of every variant (5)")
    parser.add_argument("--steps", type=positive, default=20, help="timed steps in a block (20)")
    parser.add_argument("--mode", help="of torch.compile, such as max-autotune-no-cudagraphs; else its default")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each case; one table of all."""
    known, rows = cases(), []
    compile: Any = {"mode": options.mode} if options.mode else True
    for name in chosen(options, options.cases, known, "cases"):
        workload, arguments = known[name]
        rows.append(row(name, *measure(workload, arguments, compile, options.rounds, options.steps)))
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)  # a long wait
    title = f"torch.compile, {options.mode or 'default mode'}: {options.rounds} rounds of {options.steps} steps"
    yield Table(title, COLUMNS, rows)


def measure(
    workload: Workload, arguments: dict[str, Any], compile: Any, rounds: int, steps: int
) -> tuple[Times, float, int]:
    """Return the steps of both ways, the seconds of compiling, and the number of graphs that were made."""
    plain, compiled = (partial(ours, workload, compile=choice, **arguments) for choice in (False, compile))
    with one_thread():
        torch.compiler.reset()
        counters.clear()
        first = TimedBatches(workload.batches(), steps=1, warmup=0, clock=_with_children)
        with inductor.patch(force_disable_caches=True, compile_threads=1):
            compiled(first)
        graphs = int(counters["stats"]["unique_graphs"])
        times = interleave(
            plain, {COMPILED: compiled}, workload.batches(), rounds=rounds, steps=steps, warmup=max(3, steps // 3)
        )
        if counters["stats"]["unique_graphs"] != graphs:
            raise RuntimeError(
                f"expected no more graphs after the first step's {graphs}, found {dict(counters['stats'])}"
            )
    return times, first.seconds, graphs


def _with_children() -> float:
    """Tell the CPU time of this process, and of all that it started and that have ended."""
    return sum(os.times()[:4])


def row(name: str, times: Times, seconds: float, graphs: int) -> list[Spread | float | int | str | None]:
    """Return what the table says of a case."""
    ratio, step = times.to_floor(COMPILED), median(times.floor)
    pays = f"{seconds / (step * (1 - ratio.median)):,.0f}" if ratio.median < 1 else "never"
    return [name, 1e3 * step, ratio, seconds, graphs, pays]


def missing(_: argparse.Namespace) -> str:
    """Say that there is no compiler of C++."""
    return "" if shutil.which("g++") or shutil.which("clang++") else "expected a C++ compiler (g++), found none"


BENCHMARK = Benchmark(
    "compiled", __doc__, add_options, tables, quick=("W1_T8", "--rounds=1", "--steps=5"), missing=missing
)
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
