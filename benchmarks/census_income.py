"""Census-Income: areas under the ROC curve of the shipped configs, over several seeds.

``python -m benchmarks.census_income [config ...] [--root FOLDER] [--seeds 0 1 2]`` trains each config once per seed and
prints a table of AUCs on the validation and the test half; other options are those of ``mtl-lightning fit``, for every
run. What it costs to load and train on is :mod:`benchmarks.census_cost`'s.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.command import Benchmark
from benchmarks.records import Cell, Table
from benchmarks.shipped_config import summary, train
from benchmarks.timing import silence_lightning

NAMES = ["census_income", "census_mmoe", "census_tuned"]
TASKS = ["income", "never_married"]  # of which the table is; every config has them
ROOT = "data/census"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("configs", nargs="*", default=NAMES, help=f"files of configs/, by name; {', '.join(NAMES)}")
    parser.add_argument("--root", default=ROOT, help=f"the folder of the data ({ROOT})")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of weights and order of rows (0 1 2)")


def missing(options: argparse.Namespace) -> str:
    """Say that there is no data, which a benchmark does not fetch."""
    there = any(Path(options.root, f"census-income.data{end}").is_file() for end in ("", ".gz"))
    return "" if there else f"no census-income.data in {options.root} (--root)"


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Train each config once per seed."""
    torch.set_num_threads(1)
    silence_lightning()
    for name in options.configs:
        found = [train(name, options.root, seed, options.others)[0] for seed in options.seeds]
        row: list[Cell] = [
            summary([run[f"{split}/auroc/{task}"] for run in found]) for split in ("val", "test") for task in TASKS
        ]
        names = [f"{split}, {task}" for split in ("validation", "test") for task in TASKS]
        yield Table(f"{name}: AUC, {len(found)} seeds", dict.fromkeys(names, ""), [row])


BENCHMARK = Benchmark(
    "census_income", __doc__, add_options, tables,
    quick=("census_income", "--seeds", "0", "--trainer.max_epochs=1"), missing=missing, data="census", passes_on=True,
)  # fmt: skip
main = BENCHMARK.main

if __name__ == "__main__":
    main()
