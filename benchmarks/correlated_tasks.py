"""Compare a shared bottom with MMoE on two tasks of a set correlation, at equal numbers of parameters.

``python -m benchmarks.correlated_tasks [--correlations ...] [--seeds N] [--epochs N] [--rates ...]`` prints a table of
test losses (1 is what predicting the mean gives), means over seeds with their standard errors. The seed draws the data
and the weights; both models meet the same data. As in the paper, section 5.1: 8 experts of 16 units, heads of 8 units,
Adam, and its rate chosen by validation loss (of the first two seeds).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import mean, stdev
from typing import Any

from lightning.pytorch import Trainer, seed_everything
from torch.optim import Adam

from benchmarks.command import Benchmark
from benchmarks.records import Cell, Table
from benchmarks.timing import one_thread, positive, silence_lightning
from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, MLPHead, MMoE, SharedBottom
from mtl_lightning.data import CorrelatedRegression

EXPERT, EXPERTS, TOWER = 16, 8, 8
BATCH = 250
TUNING = 2  # seeds that the rate is chosen with

Result = tuple[float, float]  # validation and test loss


@dataclass(frozen=True)
class Found:
    """The losses of one model at one correlation, seed by seed, at the rate that validation prefers."""

    rate: float
    test: list[float]

    def __str__(self) -> str:
        return f"{_with_error(self.test)} ({self.rate:g})"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--correlations", nargs="+", type=float, default=[0.5, 0.9, 1.0], help="0.5 0.9 1.0")
    parser.add_argument("--seeds", type=positive, default=10, help="runs of each kind (10)")
    parser.add_argument("--epochs", type=positive, default=30, help="epochs of 40 updates (30)")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 1e-2], help="rates to choose from (1e-3 1e-2)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Train and compare."""
    with one_thread():
        data = CorrelatedRegression()
        yield report(models(data), options.correlations, options.seeds, options.epochs, options.rates)


def models(data: CorrelatedRegression) -> dict[str, Callable[..., Any]]:
    """Return both architectures; the shared bottom is as wide as makes the networks equally large, gates included."""
    mmoe = partial(MMoE, encoder=partial(MLP, hidden=[EXPERT]), num_experts=EXPERTS)
    one, two = size(bottom(1), data), size(bottom(2), data)
    return {"SharedBottom": bottom(1 + round((size(mmoe, data) - one) / (two - one))), "MMoE": mmoe}


def bottom(width: int) -> Callable[..., Any]:
    """Return a shared bottom of one layer."""
    return partial(SharedBottom, encoder=partial(MLP, hidden=[width]))


def make_module(architecture: Callable[..., Any], data: CorrelatedRegression, rate: float) -> MultiTaskModule:
    """Make a network with heads of one hidden layer."""
    return MultiTaskModule(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=architecture,
        heads={"default": partial(MLPHead, hidden=[TOWER])},
        optimizers={"default": partial(Adam, lr=rate)},
    )


def size(architecture: Callable[..., Any], data: CorrelatedRegression) -> int:
    """Return the number of trained numbers of a network."""
    return sum(parameter.numel() for parameter in make_module(architecture, data, 0.0).parameters())


def train(architecture: Callable[..., Any], data: CorrelatedRegression, rate: float, epochs: int) -> Result:
    """Train a network; return its validation and test loss, means over the tasks."""
    seed_everything(data.seed, verbose=False)
    module = make_module(architecture, data, rate)
    trainer = Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    validated = float(trainer.callback_metrics["val/loss"]) / len(data.tasks)
    (tested,) = trainer.test(module, data, verbose=False)
    return validated, tested["test/loss"] / len(data.tasks)


def compare(
    architecture: Callable[..., Any], correlation: float, seeds: int, epochs: int, rates: Sequence[float]
) -> Found:
    """Train with the first seeds at every rate, and with all at the one with the lowest mean validation loss."""
    made = partial(CorrelatedRegression, correlation=correlation, batch_size=BATCH)
    first = range(min(TUNING, seeds))
    tried = {rate: [train(architecture, made(seed=seed), rate, epochs) for seed in first] for rate in rates}
    best = min(rates, key=lambda rate: mean(validated for validated, _ in tried[rate]))
    others = [train(architecture, made(seed=seed), best, epochs) for seed in range(len(first), seeds)]
    return Found(best, [tested for _, tested in tried[best] + others])


# -------------------------------------------------------------------------------------------------------------- report
def report(
    compared: Mapping[str, Callable[..., Any]],
    correlations: Sequence[float],
    seeds: int,
    epochs: int,
    rates: Sequence[float],
) -> Table:
    """Return a row per correlation: both test losses with the chosen rate, and their difference seed by seed."""
    data = CorrelatedRegression()
    names = [f"{name}, {size(architecture, data)} parameters" for name, architecture in compared.items()]
    rows: list[list[Cell]] = []
    for correlation in correlations:
        found = {name: compare(made, correlation, seeds, epochs, rates) for name, made in compared.items()}
        first, last = (list(found.values())[index].test for index in (0, -1))
        difference = [there - here for here, there in zip(first, last, strict=True)]
        rows.append([correlation, *map(str, found.values()), _with_error(difference)])
    return Table(
        f"Test loss, {seeds} seeds, {epochs} epochs; mean +- standard error (rate)",
        {"correlation": "g", **dict.fromkeys(names, ""), "difference": ""},
        rows,
    )


def _with_error(values: Sequence[float]) -> str:
    """Return the mean and its standard error, which one value has not."""
    error = f" +- {stdev(values) / sqrt(len(values)):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{error}"


BENCHMARK = Benchmark(
    "correlated_tasks", __doc__, add_options, tables, quick=("--correlations=0.9", "--seeds=2", "--rates=1e-2")
)
main = BENCHMARK.main

if __name__ == "__main__":
    silence_lightning()
    main()
