"""The table of test metrics: original units, counts of labels, and a constant's value beside each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import ConstantMetrics
from mtl_lightning.cli import metrics_table
from mtl_lightning.tasks import MulticlassClassification, Regression, Task
from mtl_lightning.types import TargetSpec
from tests.helpers import loader_of, make_batches, make_module, make_trainer, with_gaps

SCALE = 1000.0


def scaled(seed: int) -> list[Any]:
    """Batches in which two numbers are in grams rather than kilograms."""
    batches = with_gaps(make_batches(4, seed=seed), seed=seed)
    for batch in batches:
        batch["targets"] |= {"grams": batch["targets"]["number"] * SCALE, "size": batch["targets"]["number"] * SCALE}
    return batches


def run(units: str = "") -> tuple[Trainer, MultiTaskModule, list[Any]]:
    spec = TargetSpec(units=units)
    tasks: dict[str, Task] = {
        "number": Regression(spec, standardize=True),
        "grams": Regression(spec, standardize=True),
        "size": Regression(spec, standardize=True, loss="l1"),
        "vector": Regression(TargetSpec(shape=(3,)), standardize=True),
        "kind": MulticlassClassification(TargetSpec(classes=4)),
    }
    train, test = scaled(0), scaled(0)
    for name, task in tasks.items():
        task.fit_target(torch.cat([batch["targets"][name] for batch in train]))
    module = make_module(tasks=tasks, balancer=UncertaintyWeighting)
    trainer = make_trainer(callbacks=[ConstantMetrics()])
    trainer.fit(module, loader_of(train), loader_of(test))
    trainer.test(module, loader_of(test), verbose=False)
    return trainer, module, test


def read(table: str) -> dict[str, dict[str, Any]]:
    """The cells by task and column: the value, and the constant's."""
    found: dict[str, dict[str, Any]] = {}
    header: list[str] = []
    for line in table.splitlines():
        if line.startswith("task "):
            header = line.split()[1:]
        elif not line.startswith(("-", "In ")):
            name, *words = line.replace(" (", "(").split()
            found[name] = dict(zip(header, words, strict=True))
    return {
        task: {
            column: cell if column == "units" or cell == "-" else tuple(map(float, cell.replace(")", "").split("(")))
            for column, cell in row.items()
        }
        for task, row in found.items()
    }


def test_everything_is_in_original_units_beside_a_constant() -> None:
    trainer, module, test = run("g")
    table = metrics_table(trainer, module)
    rows = read(table)
    numbers = torch.cat([batch["targets"]["number"] for batch in test])
    labelled = numbers[~numbers.isnan()]
    assert rows["grams"]["units"] == "g"
    assert rows["kind"]["units"] == "-"
    assert rows["grams"]["labels"] == (len(labelled),)
    for task, factor in (("number", 1.0), ("grams", SCALE)):
        variance, error = float(labelled.var(correction=0)), (labelled - labelled.mean()).abs().mean()
        loss, constant = rows[task]["loss"]
        assert constant == pytest.approx(variance * factor**2, rel=1e-3)  # of a squared error
        assert loss == pytest.approx(float(rows[task]["rmse"][0]) ** 2, rel=2e-3)
        assert rows[task]["mae"][1] == pytest.approx(float(error) * factor, rel=1e-3)
    assert rows["size"]["loss"][0] == pytest.approx(rows["size"]["mae"][0], rel=1e-3)
    assert rows["size"]["sigma"][0] == pytest.approx(module.sigmas(original_units=True)["size"], rel=1e-3)
    kinds = torch.cat([batch["targets"]["kind"] for batch in test])
    counts = kinds[kinds >= 0].bincount()
    assert rows["kind"]["accuracy"][1] == pytest.approx(float(counts.max() / counts.sum()), rel=1e-3)
    assert "In brackets: what the best constant" in table
    assert table.splitlines()[-1].endswith("the loss of vector.")  # its three outputs have scales of their own
    assert table.count("task  ") == 2  # regressions and the classification have columns of their own


def test_without_constants_units_and_sigmas() -> None:
    module = make_module()
    trainer = make_trainer()
    trainer.test(module, loader_of(make_batches(2)), verbose=False)
    table = metrics_table(trainer, module)
    assert "In " not in table
    assert {column for row in read(table).values() for column in row} == {
        "labels",
        "loss",
        "mae",
        "rmse",
        "accuracy",
        "f1",
    }
    assert all(len(cell) == 1 for row in read(table).values() for cell in row.values())


def test_the_columns_of_several_dataloaders() -> None:
    module, loaders = make_module(), [loader_of(make_batches(2)), loader_of(make_batches(3))]
    trainer = make_trainer(callbacks=[ConstantMetrics()])
    trainer.fit(module, loader_of(make_batches(3)), loader_of(make_batches(1)))
    trainer.test(module, loaders, verbose=False)
    row = read(metrics_table(trainer, module))["number"]
    assert row["0/labels"] == (16,)
    assert row["1/labels"] == (24,)
    assert len(row["0/loss"]) == len(row["1/mae"]) == 2
