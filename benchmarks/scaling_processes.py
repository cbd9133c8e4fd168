"""Time the step of the same global batch on one and on two processes of one thread each, which talk by gloo.

``python -m benchmarks.scaling_processes [workload ...] [--methods ...] [--rounds N] [--steps N]``: seconds by the
clock, so it wants two cores to itself. Beside each method stands how much CPU time the two processes spend together
over that of the one, which a busy machine changes less: the speed-up can be no more than 2 over it. The raw loop with
PyTorch's own DistributedDataParallel is what a strategy can reach that sums the gradients of all parameters.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

from benchmarks.command import Benchmark, chosen
from benchmarks.loops import make_module
from benchmarks.records import Cell, Goal, Spread, Table
from benchmarks.timing import TimedBatches, positive, silence_lightning
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning.balancing import DWA, IMTLG, MGDA, Balancer, UncertaintyWeighting, UPGrad
from mtl_lightning.balancing.build import BalancerArgument
from mtl_lightning.types import Batch

RAW = "equal weights, raw loop"
LOSSES: Mapping[str, BalancerArgument] = {
    "equal weights": Balancer,
    "UncertaintyWeighting": UncertaintyWeighting,
    "DWA": DWA,
}
GRADIENTS: Mapping[str, BalancerArgument] = {"MGDA": MGDA, "UPGrad": UPGrad, "IMTLG": IMTLG}
FEATURES: Mapping[str, BalancerArgument] = {"MGDA, level features": partial(MGDA, level="features")}
METHODS: Mapping[str, BalancerArgument | None] = {RAW: None, **LOSSES, **GRADIENTS, **FEATURES}
GOALS = {"W3": {**dict.fromkeys(LOSSES, 1.6), **dict.fromkeys(GRADIENTS, 1.5)}}
"""How many times faster two processes are to be, at least, by workload and method."""
_ENVIRONMENT = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "RANK", "LOCAL_RANK")
_WARMUP = 5


@dataclass
class Found:
    """Seconds of a step, a number for each round.

    Attributes:
        one: by the clock, on one process.
        two: on two.
        cpu: the CPU time of the two processes together over that of the one.
    """

    one: list[float] = field(default_factory=list)
    two: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"some of {', '.join(WORKLOADS)} (W3)")
    parser.add_argument("--methods", nargs="+", default=[], metavar="method", help=f"some of {', '.join(METHODS)}")
    parser.add_argument("--rounds", type=positive, default=5, help="blocks of every method (5)")
    parser.add_argument("--steps", type=positive, default=15, help="timed steps in a block (15)")


def missing(_options: argparse.Namespace) -> str:
    """Say that there are too few cores, or no gloo."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        return "PyTorch was built without gloo"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"two processes want two cores, found {cores}" if cores < 2 else ""


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each workload."""
    methods = chosen(options, options.methods, METHODS, "methods")
    names = chosen(options, options.workloads or ["W3"], WORKLOADS, "workloads")
    for name in names:
        yield report(name, measure(name, methods, options.rounds, options.steps))


def measure(name: str, methods: Sequence[str], rounds: int, steps: int) -> dict[str, Found]:
    """Let all methods take turns, each on one process and then on two, in two processes that last."""
    found = {method: Found() for method in methods}
    with Pair() as pair:
        for _ in range(rounds):
            for method, one in found.items():
                ((seconds, alone),) = pair.run(1, name, method, steps)
                first, second = pair.run(2, name, method, steps)
                one.one.append(seconds)
                one.two.append(max(first[0], second[0]))
                one.cpu.append((first[1] + second[1]) / alone)
    return found


def report(name: str, found: Mapping[str, Found]) -> Table:
    """Return times and speed-ups, and the goals."""
    faster = {
        method: Spread.of([a / b for a, b in zip(one.one, one.two, strict=True)]) for method, one in found.items()
    }
    rows: list[list[Cell]] = [
        [
            method,
            *(Spread.of([1e3 * seconds for seconds in values]) for values in (one.one, one.two)),
            faster[method],
            Spread.of(one.cpu),
        ]
        for method, one in found.items()
    ]
    rounds = len(next(iter(found.values())).one)
    return Table(
        f"{name} on two processes: {WORKLOADS[name].rows} rows in all, {rounds} rounds",
        {"method": "", "1 process, ms": ".1f", "2 processes, ms": ".1f", "speed-up": ".2f",
         "CPU time of both, to that of one": ".2f"},
        rows,
        [
            Goal(f"speed-up of {method}", faster[method], limit, at_least=True, form=".2f")
            for method, limit in GOALS.get(name, {}).items()
            if method in found
        ],
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- the processes
class Pair:
    """Two processes that run blocks of steps, the first alone or both together."""

    def __enter__(self) -> Pair:
        context = get_context("spawn")
        pipes = [context.Pipe() for _ in range(2)]
        self._ends = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, rank), daemon=True) for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *error: object) -> None:
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send(None)
            process.join(10)
            process.kill()

    def run(self, world: int, *block: Any) -> list[tuple[float, float]]:
        """Run a block on so many of them; return the seconds of a step of each, by the clock and of the CPU."""
        port = _free_port()
        for end in self._ends[:world]:
            end.send((world, port, *block))
        answers = [end.recv() for end in self._ends[:world]]
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(answer)
        return answers


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _serve(end: Connection, rank: int) -> None:
    """Run what the pipe asks for, until it says None."""
    torch.set_num_threads(1)
    silence_lightning()
    while (asked := end.recv()) is not None:
        world, port, name, method, steps = asked
        try:
            end.send(run_block(rank, world, port, WORKLOADS[name], METHODS[method], steps))
        except Exception as error:  # the parent raises it
            end.send(f"{type(error).__name__}: {error}")


def run_block(
    rank: int, world: int, port: int, workload: Workload, balancer: BalancerArgument | None, steps: int
) -> tuple[float, float]:
    """Train on this process's rows; return the seconds of a step by the clock and of the CPU.

    Args:
        rank: of this process.
        world: how many processes there are.
        port: where they meet.
        workload: whose batches are shared out.
        balancer: of our module; None runs the raw loop.
        steps: how many are timed.
    """
    for name in _ENVIRONMENT:
        os.environ.pop(name, None)
    if world > 1:
        values = ("127.0.0.1", str(port), str(world), "0", str(rank), str(rank))
        os.environ.update(dict(zip(_ENVIRONMENT, values, strict=True)))
    cpu: list[float] = []

    def clock() -> float:
        cpu.append(time.process_time())
        return time.perf_counter()

    batches = TimedBatches([part_of(batch, rank, world) for batch in workload.batches()], steps, _WARMUP, clock)
    try:
        if balancer is None:
            raw(workload, batches, world)
        else:
            _fit(workload, balancer, batches, world)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    start, stop = cpu
    return batches.seconds, (stop - start) / steps


def part_of(batch: Batch, rank: int, world: int) -> Batch:
    """Return every ``world``-th row of a batch, from ``rank`` on."""
    targets = {name: target[rank::world].clone() for name, target in batch["targets"].items()}
    return {"inputs": batch["inputs"][rank::world].clone(), "targets": targets}


def raw(workload: Workload, batches: TimedBatches, world: int) -> None:
    """Train on the sum of the losses with one fused Adam, without Lightning."""
    torch.manual_seed(0)
    network: nn.Module = workload.network()
    if world > 1:
        torch.distributed.init_process_group("gloo")
        network = DistributedDataParallel(network)
    optimizer = Adam(network.parameters(), lr=1e-3, fused=True)
    forward: Callable[[Tensor], Mapping[str, Tensor]] = network
    for batch in batches:
        optimizer.zero_grad()
        losses = workload.losses(forward(batch["inputs"]), batch["targets"])
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()


def _fit(workload: Workload, balancer: BalancerArgument, batches: TimedBatches, world: int) -> None:
    strategy: Any = DDPStrategy(process_group_backend="gloo") if world > 1 else "auto"
    Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy,
        use_distributed_sampler=False,
        max_epochs=1,
        logger=False,
        log_every_n_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(make_module(workload, balancer), batches)


BENCHMARK = Benchmark(
    "scaling_processes", __doc__, add_options, tables, missing=missing,
    quick=("--methods", RAW, "UncertaintyWeighting", "MGDA", "--rounds=2"),
)  # fmt: skip
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
