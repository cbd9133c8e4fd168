"""Time a step on a GPU beside a raw loop, as it is and compiled, and gradient methods beside torchjd's.

``python -m benchmarks.gpu [case ...] [--device cpu] [--rounds N] [--steps N]`` prints a table per case: small networks,
whose steps are a GPU's time to be told what to do, and a large one. Times are by the clock, once all queued work is
done. **It never ran on a GPU**: on the CPU (``--device cpu``) it shows no more than that it runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.command import Benchmark, chosen
from benchmarks.gradient_loops import RIVALS, by_torchjd
from benchmarks.loops import ours, raw
from benchmarks.records import Cell, Table
from benchmarks.timing import TimedBatches, Variant, interleave, positive, silence_lightning
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning import balancing
from mtl_lightning.architectures import MLP, MLPHead
from mtl_lightning.balancing import Balancer, UncertaintyWeighting

FLOOR = "raw loop, one fused Adam"
LARGE = Workload((1024,), 4096, 8, partial(MLP, hidden=[4096] * 4), partial(MLPHead, hidden=[1024]))
CASES: dict[str, Workload] = {"W1_T8": WORKLOADS["W1_T8"], "W1_T32": WORKLOADS["W1_T32"], "large": LARGE}
METHODS = ("MGDA", "PCGrad", "UPGrad", "IMTLG", "NashMTL")
COMPILED: dict[str, dict[str, Any]] = {"compiled": {}, "CUDA graphs": {"mode": "reduce-overhead"}}
COLUMNS = {"step": "", f"to the {FLOOR}": ".3f", "to torchjd's": ".3f", "peak memory, MiB": ",.0f"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("cases", nargs="*", metavar="case", help=f"some of {', '.join(CASES)}; else all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to run (cuda)")
    parser.add_argument("--rounds", type=positive, default=7, help="blocks of every variant (7)")
    parser.add_argument("--steps", type=positive, default=50, help="timed steps in a block (50)")
    parser.add_argument("--warmup", type=positive, default=10, help="steps before them that are not timed (10)")
    parser.add_argument("--methods", nargs="*", default=METHODS, metavar="method", help=f"gradient methods ({METHODS})")
    parser.add_argument("--eager", action="store_true", help="compile nothing")


def variants(workload: Workload, device: str, methods: list[str], *, eager: bool) -> dict[str, Variant]:
    """Return all loops but the floor, by name."""
    on_device = partial(ours, workload, device=device)
    ways = {} if eager else COMPILED
    rivals = {name: make for name, make in RIVALS.items() if name in methods}
    theirs = {f"{name}, torchjd": partial(by_torchjd, workload, make, device=device) for name, make in rivals.items()}
    equal = partial(on_device, balancer=Balancer)
    return {
        **{f"raw loop, {way}": partial(raw, workload, fused=True, device=device, compile=o) for way, o in ways.items()},
        "equal weights": equal,
        **{f"equal weights, {way}": partial(equal, compile=o or True) for way, o in ways.items()},
        "equal weights, no fast paths": partial(equal, fast_paths=False),
        "UncertaintyWeighting": partial(on_device, balancer=UncertaintyWeighting),
        **{name: partial(on_device, balancer=getattr(balancing, name)) for name in methods},
        **theirs,
    }


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each case."""
    clock = _clock(options.device)
    for name in chosen(options, options.cases, CASES, "cases"):
        workload = CASES[name]
        floor = partial(raw, workload, fused=True, device=options.device)
        loops = variants(workload, options.device, [*options.methods], eager=options.eager)
        batches = [_pinned(batch) for batch in workload.batches()] if options.device == "cuda" else workload.batches()
        peaks = {each: _peak(loop, batches, options.device) for each, loop in {FLOOR: floor, **loops}.items()}
        times = interleave(
            floor,
            loops,
            batches,
            rounds=options.rounds,
            steps=options.steps,
            warmup=options.warmup,
            clock=clock,
        )
        rows: list[list[Cell]] = [[FLOOR, 1.0, None, peaks[FLOOR]]]
        for each in loops:
            rival = f"{each}, torchjd"
            beside = times.to(each, rival) if rival in loops else None
            rows.append([each, times.to_floor(each), beside, peaks[each]])
        step = 1e3 * median(times.floor)
        yield Table(f"{name} on {card(options.device)}: a step of the {FLOOR} {step:.2f} ms", COLUMNS, rows)


def card(device: str) -> str:
    """Name the device, and the versions of what drives it."""
    if device == "cpu":
        return f"the CPU, torch {torch.__version__}: no figures of a GPU"
    name = torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def _clock(device: str) -> Callable[[], float]:
    """Return what tells the time when all queued work is done."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return now


def _peak(loop: Variant, batches: list[Any], device: str) -> float | None:
    """Return the largest memory of a few steps, in MiB; None on the CPU."""
    if device == "cpu":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    loop(TimedBatches(batches, steps=2, warmup=2))
    return torch.cuda.max_memory_allocated() / 2**20


def _pinned(batch: Any) -> Any:
    """Return a batch in memory that is copied without waiting, as a loader with ``pin_memory`` gives it."""
    return {
        "inputs": batch["inputs"].pin_memory(),
        "targets": {name: target.pin_memory() for name, target in batch["targets"].items()},
    }


def missing(options: argparse.Namespace) -> str:
    """Say that there is no GPU."""
    if options.device == "cpu" or torch.cuda.is_available():
        return ""
    return "expected a GPU, found none (torch.cuda.is_available() is False); `--device cpu` tries it without"


BENCHMARK = Benchmark("gpu", __doc__, add_options, tables, quick=("W1_T8", "--rounds=2", "--steps=20"), missing=missing)
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
