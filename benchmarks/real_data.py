"""Flights and QM9: the shipped configs over several seeds, each task beside what needs no training.

``python -m benchmarks.real_data [config ...] [--root FOLDER] [--seeds 0 1 2]`` trains each config once per seed and
prints a table of the metrics on validation and test rows, means and standard deviations over the seeds. Other options
are those of ``mtl-lightning fit``, for every run: ``--data.init_args.tail_numbers=true``.
Beside them stands what the best constant for the training labels reaches on the test rows: the median for ``mae``, the
mean for ``rmse``, and 0.5 for ``auroc``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.shipped_config import summary, train
from benchmarks.timing import silence_lightning

NAMES = ["flights", "qm9"]
METRICS = ("mae", "rmse", "auroc")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, train, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_data", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("configs", nargs="*", default=NAMES, help=f"files of configs/, by name; {', '.join(NAMES)}")
    parser.add_argument("--root", default="data", help="the folder of the data's folders (data)")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of weights and order of rows (0 1 2)")
    options, others = parser.parse_known_args(argv)
    torch.set_num_threads(1)
    silence_lightning()
    for name in options.configs:
        runs = [run(name, f"{options.root}/{name}", seed, others) for seed in options.seeds]
        print(f"\n{name}, {len(runs)} seeds\n\n| task | metric | validation | test | a constant |")
        print("| --- | --- | --- | --- | --- |")
        for tag, constant in runs[0][1].items():
            metric, task = tag.split("/")
            cells = [summary([found[f"{split}/{tag}"] for found, _ in runs], ".4g", ".2g") for split in ("val", "test")]
            print(f"| {task} | {metric} | {' | '.join(cells)} | {constant:.4g} |", flush=True)


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


if __name__ == "__main__":
    main()
