"""Census-Income: what it costs to load the data, and to load, train two epochs and test; CPU seconds and peak memory.

``python -m benchmarks.census_cost [--root FOLDER] [--rounds N]`` runs ``configs/census_income.yaml`` as it is shipped,
each time in a process of its own with one thread. CPU time counts from after the imports (which are told too) to the
end of the test; the peak is that of the whole process, imports included (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.census_income import ROOT, missing
from benchmarks.command import Benchmark
from benchmarks.memory import peak
from benchmarks.records import Cell, Goal, Spread, Table
from benchmarks.timing import positive, silence_lightning

SECONDS, MEGABYTES, AUC = 6.0, 900.0, 0.9396
"""The goals: CPU seconds and peak of load, two epochs and test; the income AUC there, to four digits, is to stay."""
COLUMNS = {
    "phase": "", "CPU seconds": ".2f", "seconds": ".2f", "CPU seconds of imports": ".2f", "peak, MB": ",.0f",
    "peak after imports, MB": ",.0f", "result": "",
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--root", default=ROOT, help=f"the folder of the data ({ROOT})")
    parser.add_argument("--rounds", type=positive, default=3, help="processes of each kind (3)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Run all phases in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PHASES}
    for _ in range(options.rounds):
        for name, runs in found.items():
            runs.append(_in_a_process(name, options.root))
    spreads = {
        name: [Spread.of([run[kind] for run in runs]) for kind in ("cpu", "seconds", "imports", "peak", "before")]
        for name, runs in found.items()
    }
    rows: list[list[Cell]] = [[name, *spreads[name], found[name][-1]["result"]] for name in found]
    cpu, _, _, highest, _ = spreads[TRAIN]
    yield Table(
        f"Census-Income, {options.rounds} rounds",
        COLUMNS,
        rows,
        [
            Goal(TRAIN, cpu, SECONDS, unit=" CPU seconds", form=".2f"),
            Goal(f"{TRAIN}: peak", highest, MEGABYTES, unit=" MB", form=",.0f"),
            Goal(f"{TRAIN}: income AUC", found[TRAIN][-1]["auc"], AUC - 0.0003, at_least=True, form=".4f"),
        ],
    )


def _in_a_process(phase: str, root: str) -> dict[str, Any]:
    """Run a phase in an interpreter of its own; return what it measured."""
    code = f"from benchmarks.census_cost import measure; measure({phase!r}, {root!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(phase: str, root: str) -> None:
    """Run a phase in this process, and print what it cost."""
    torch.set_num_threads(1)
    silence_lightning()
    import mtl_lightning.cli  # what is measured begins after the imports
    import mtl_lightning.data  # noqa: F401

    imports, before, start, cpu = time.process_time(), peak(), time.perf_counter(), time.process_time()
    found = PHASES[phase](root)
    costs = {
        "cpu": time.process_time() - cpu, "seconds": time.perf_counter() - start, "imports": imports,
        "peak": peak(), "before": before,
    }  # fmt: skip
    print(json.dumps({**found, **costs}))


def load(root: str) -> dict[str, Any]:
    """Read and encode all rows, and go through the training rows once."""
    from mtl_lightning.data import CensusIncome

    data: Any = CensusIncome(root=root)
    rows = sum(len(loader().dataset) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader))
    cpu = time.process_time()
    batches = sum(1 for _ in data.train_dataloader())
    return {"result": f"{rows:,} rows; of that {time.process_time() - cpu:.2f} s an epoch of {batches} batches"}


def train(root: str) -> dict[str, Any]:
    """Run the shipped config: load, two epochs with their validations, and the test."""
    from benchmarks.shipped_config import fit

    made = fit("census_income", root, 0)
    (metrics,) = made.trainer.test(made.model, datamodule=made.datamodule, verbose=False)
    auc = metrics["test/auroc/income"]
    return {"result": f"income AUC {auc:.4f}", "auc": auc}


LOAD, TRAIN = "load, and an epoch of batches", "load, two epochs, test"
PHASES: dict[str, Callable[[str], dict[str, Any]]] = {LOAD: load, TRAIN: train}

BENCHMARK = Benchmark(
    "census_cost", __doc__, add_options, tables, quick=("--rounds=1",), missing=missing, data="census"
)
main = BENCHMARK.main

if __name__ == "__main__":
    main()
