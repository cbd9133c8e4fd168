"""Census-Income: what it costs to load the data, and to load, train two epochs and test; CPU seconds and peak memory.

``python -m benchmarks.census_cost [--root FOLDER] [--rounds N]`` runs ``configs/census_income.yaml`` as it is shipped,
each time in a process of its own with one thread. CPU time counts from after the imports (which are told too) to the
end of the test; the peak is that of the whole process, imports included (Linux). The last row is the command as its
users run it, with its logs, checkpoints and table of the test: all of its CPU time, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.census_income import ROOT, missing
from benchmarks.command import Benchmark
from benchmarks.memory import peak
from benchmarks.records import Cell, Goal, Spread, Table
from benchmarks.shipped_config import CONFIGS
from benchmarks.timing import positive, silence_lightning

SECONDS, MEGABYTES, AUC = 6.0, 900.0, 0.9396
"""The goals: CPU seconds and peak of load, two epochs and test; the income AUC there, to four digits, is to stay."""
COLUMNS = {
    "phase": "", "CPU seconds": ".2f", "seconds": ".2f", "CPU seconds of imports": ".2f", "peak, MB": ",.0f",
    "peak after imports, MB": ",.0f", "result": "",
}  # fmt: skip
_MEASURED = ("cpu", "seconds", "imports", "peak", "before")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--root", default=ROOT, help=f"the folder of the data ({ROOT})")
    parser.add_argument("--rounds", type=positive, default=3, help="processes of each kind (3)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Run all phases in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*PHASES, COMMAND)}
    for _ in range(options.rounds):
        for name, runs in found.items():
            runs.append(command(options.root) if name == COMMAND else _in_a_process(name, options.root))
    rows: list[list[Cell]] = [
        [name, *(_spread([run[kind] for run in runs]) for kind in _MEASURED), runs[-1]["result"]]
        for name, runs in found.items()
    ]
    peaks = [max(run["peak"] for run in runs) for runs in zip(found[TRAIN], found[COMMAND], strict=True)]
    yield Table(
        f"Census-Income, {options.rounds} rounds",
        COLUMNS,
        rows,
        [
            Goal(TRAIN, Spread.of([run["cpu"] for run in found[TRAIN]]), SECONDS, unit=" CPU seconds", form=".2f"),
            Goal(f"{TRAIN}: peak", Spread.of(peaks), MEGABYTES, unit=" MB", form=",.0f"),
            Goal(f"{TRAIN}: income AUC", found[TRAIN][-1]["auc"], AUC - 0.0003, at_least=True, form=".4f"),
        ],
    )


def _spread(values: list[Any]) -> Spread | None:
    return None if None in values else Spread.of(values)


def _in_a_process(phase: str, root: str) -> dict[str, Any]:
    """Run a phase in an interpreter of its own; return what it measured."""
    code = f"from benchmarks.census_cost import measure; measure({phase!r}, {root!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def command(root: str) -> dict[str, Any]:
    """Run the command in an empty folder; return what the system says of its process."""
    folder_of_data = Path(root).resolve()
    arguments = ["fit", f"--config={CONFIGS / 'census_income.yaml'}", f"--data.init_args.root={folder_of_data}",
                 "--data.init_args.download=false"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "mtl_lightning", *arguments],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parent)},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"The command failed with status {process.returncode}: {' '.join(arguments)}")
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    seconds = time.perf_counter() - start
    return {"cpu": cpu, "seconds": seconds, "imports": None, "peak": peak, "before": None, "result": "with imports"}


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
COMMAND = "`mtl-lightning fit`, with logs and checkpoints"
PHASES: dict[str, Callable[[str], dict[str, Any]]] = {LOAD: load, TRAIN: train}

BENCHMARK = Benchmark(
    "census_cost", __doc__, add_options, tables, quick=("--rounds=1",), missing=missing, data="census"
)
main = BENCHMARK.main

if __name__ == "__main__":
    main()
