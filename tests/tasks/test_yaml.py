"""What YAML can say of tasks: parsed by jsonargparse in the form that a datamodule's argument has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor
from torchmetrics import MeanSquaredError

from mtl_lightning.describe import describe
from mtl_lightning.tasks import (
    BinaryClassification,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
    Task,
)
from mtl_lightning.types import Likelihood, TargetSpec

Factory = Callable[[TargetSpec], Task]


def fourth_power(output: Tensor, target: Tensor) -> Tensor:
    return (output - target) ** 4


class Holder:
    """Has the argument that datamodules have."""

    def __init__(self, tasks: dict[str, Factory | None] | None = None) -> None:
        self.tasks = tasks or {}


def parse(class_path: str, **init_args: Any) -> Factory:
    """Return the factory that YAML's ``class_path`` and ``init_args`` make."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Holder, "data")
    part = {"class_path": f"mtl_lightning.tasks.{class_path}", "init_args": init_args}
    config = parser.parse_object({"data": {"tasks": {"left": part, "right": None}}})
    tasks = parser.instantiate(config).data.tasks
    assert tasks["right"] is None
    factory: Factory = tasks["left"]
    return factory


def test_the_spec_comes_from_the_data() -> None:
    task = parse("MulticlassClassification", class_weights=[1, 2, 3], ignore_index=255)(TargetSpec(classes=3))
    assert isinstance(task, MulticlassClassification)
    assert task.output_size == 3
    assert task.count(torch.tensor([0, 255])) == 1


def test_options_of_each_class() -> None:
    binary = parse("BinaryClassification", pos_weight=2, label_smoothing=0.1)(TargetSpec())
    labels = parse("MultilabelClassification", pos_weight=[1, 2.5], reduction="sum")(TargetSpec(classes=2))
    huber = parse("Regression", loss="huber", delta=0.5, standardize=True)(TargetSpec(shape=(2,)))
    assert isinstance(binary, BinaryClassification)
    assert isinstance(labels, MultilabelClassification)
    assert labels.likelihood == (2.0, 1.0, "log_var")
    assert isinstance(huber, Regression)
    assert not huber.fitted


@pytest.mark.parametrize("likelihood", [{"a": 1, "b": 0.25, "scale": "log_var"}, [1, 0.25, "log_var"]])
def test_a_loss_of_ones_own_by_dotted_path(likelihood: Any) -> None:
    factory = parse("Regression", loss=f"{__name__}.fourth_power", likelihood=likelihood)
    task = factory(TargetSpec())
    assert task.loss(torch.full((2, 1), 2.0), torch.zeros(2)).item() == 32.0
    assert task.likelihood == Likelihood(1.0, 0.25, "log_var")
    described = describe(task)["init_args"]
    assert described["loss"] == f"{__name__}.fourth_power"
    assert described["likelihood"] == [1.0, 0.25, "log_var"]


def test_metrics_of_ones_own() -> None:
    mse = {"class_path": "torchmetrics.MeanSquaredError", "init_args": {"squared": True}}
    factory = parse("Regression", metrics={"mse": mse, "r2": {"class_path": "torchmetrics.R2Score"}})
    task = factory(TargetSpec())
    metrics = task.metrics("val")
    task.update(metrics, torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([1.0, 4.0, float("nan")]))
    assert {*metrics} == {"mse", "r2"}
    assert isinstance(metrics["mse"], MeanSquaredError)
    assert metrics.compute()["mse"].item() == 2.0


def test_a_factory_is_described_as_it_was_said() -> None:
    factory = parse("Regression", loss="l1", metrics={"mse": {"class_path": "torchmetrics.MeanSquaredError"}})
    described = describe(factory)
    assert described["class_path"] == "mtl_lightning.tasks.Regression"
    assert described["init_args"]["loss"] == "l1"
    again = parse("Regression", **described["init_args"])
    assert describe(again) == described


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({"standardise": True}, "'standardise' is not accepted"),
        ({"loss": "mae"}, r"Literal\['mse', 'l1', 'huber'\]"),
        ({"likelihood": {"a": 1.0, "scale": "log_var"}}, "Missing required fields: {'b'}"),
        ({"reduction": "none"}, r"Literal\['mean', 'sum'\]"),
    ],
)
def test_mistakes_are_named(init_args: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse("Regression", **init_args)
