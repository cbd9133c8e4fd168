"""Census-Income: the shipped configs over several seeds, and what loading the data costs.

``python -m benchmarks.census_income [config ...] [--root FOLDER] [--seeds 0 1 2]`` trains each config once per seed and
prints a table of AUCs on the validation and the test half; other options are those of ``mtl-lightning fit``, for every
run. ``--load`` measures, in a process of its own, the time and memory that the 299,285 rows take, and an epoch of their
batches without a model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.shipped_config import summary, train
from benchmarks.timing import silence_lightning

NAMES = ["census_income", "census_mmoe", "census_tuned"]
TASKS = ["income", "never_married"]  # of which the table is; every config has them


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, train, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.census_income", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("configs", nargs="*", default=NAMES, help=f"files of configs/, by name; {', '.join(NAMES)}")
    parser.add_argument("--root", default="data/census", help="the folder of the data (data/census)")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of weights and order of rows (0 1 2)")
    parser.add_argument("--load", action="store_true", help="measure loading instead")
    options, others = parser.parse_known_args(argv)
    if options.load:
        measured = subprocess.run(
            [sys.executable, "-c", f"from benchmarks.census_income import load; load({options.root!r})"],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        sys.stdout.write(measured.stdout)
        return
    torch.set_num_threads(1)
    silence_lightning()
    print("| config | seeds | validation: income, never married | test: income, never married |")
    print("| --- | --- | --- | --- |")
    for name in options.configs:
        found = [train(name, options.root, seed, others)[0] for seed in options.seeds]
        cells = [", ".join(summary([run[f"{split}/auroc/{task}"] for run in found]) for task in TASKS)
                 for split in ("val", "test")]  # fmt: skip
        print(f"| {name} | {len(found)} | {' | '.join(cells)} |", flush=True)


def load(root: str) -> None:
    """Read all rows and go through the training rows once; print time (s) and memory (MB)."""
    torch.set_num_threads(1)
    silence_lightning()
    from mtl_lightning.data import CensusIncome

    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    data: Any = CensusIncome(root=root)
    rows = sum(len(loader().dataset) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader))
    print(
        f"{rows} rows in {time.perf_counter() - start:.2f} s ({time.process_time() - cpu:.2f} s of the processor), "
        f"at most {peak() - before:.0f} MB above the {before:.0f} MB after imports"
    )
    start, cpu = time.perf_counter(), time.process_time()
    batches = sum(1 for _ in data.train_dataloader())
    print(
        f"{batches} batches in {time.perf_counter() - start:.2f} s ({time.process_time() - cpu:.2f} s of the processor)"
    )


def peak() -> float:
    """Return the largest memory this process has had, in MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
