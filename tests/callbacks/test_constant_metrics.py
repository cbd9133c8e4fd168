"""What constants reach in a test: compared with figures worked out from the training and test labels by hand."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mtl_lightning import MultiTaskModule
from mtl_lightning.callbacks import ConstantMetrics
from mtl_lightning.data import Split, TensorRows
from mtl_lightning.tasks import (
    BinaryClassification,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
    SemanticSegmentation,
)
from mtl_lightning.types import TargetSpec
from tests.helpers import TinyData, loader_of, make_batches, make_module, make_rows, make_trainer, with_gaps


class Lopsided(TinyData):
    """Six training rows in ten are of class 0; in the test every class is as frequent."""

    def rows(self, split: Split) -> TensorRows:
        return TensorRows(*self.made(split))

    def made(self, split: Split) -> tuple[Tensor, dict[str, Tensor]]:
        kinds = {"train": [0] * 36 + [1] * 12 + [2] * 12, "val": [0, 1, 2] * 7, "test": [0, 1, 2] * 7}[split]
        inputs, targets = make_rows(len(kinds), seed=["train", "val", "test"].index(split))
        found = {"number": targets["number"].float(), "vector": targets["vector"].float()}
        return inputs.float(), {**found, "kind": torch.tensor(kinds)}


def after_test(data: TinyData, **options: Any) -> tuple[ConstantMetrics, MultiTaskModule, dict[str, float]]:
    callback, module = ConstantMetrics(), make_module(tasks=data.tasks)
    trainer = make_trainer(callbacks=[callback], **{"precision": "32-true", "max_epochs": 1, **options})
    trainer.fit(module, data)
    assert callback.values == {}
    (logged,) = trainer.test(module, data, verbose=False)
    return callback, module, {name: float(value) for name, value in logged.items()}


@pytest.mark.parametrize("standardize", [False, True])
def test_mean_median_and_majority(standardize: bool) -> None:
    data = Lopsided(standardize=standardize)
    callback, _, logged = after_test(data)
    train, test = (data.made(split)[1] for split in ("train", "test"))
    values = callback.values
    mean, median = train["number"].mean(), train["vector"].sort(0).values[29]
    assert values["test/mae/number"] == pytest.approx(float((test["number"] - mean).abs().mean()), rel=1e-5)
    assert values["test/rmse/number"] == pytest.approx(float((test["number"] - mean).square().mean().sqrt()), rel=1e-5)
    assert values["test/mae/vector"] == pytest.approx(float((test["vector"] - median).abs().mean()), rel=1e-5)
    assert values["test/loss/vector"] == pytest.approx(float((test["vector"] - median).abs().mean()), rel=1e-5)
    assert values["test/accuracy/kind"] == pytest.approx(1 / 3)
    shares = torch.tensor([0.6, 0.2, 0.2])
    assert values["test/loss/kind"] == pytest.approx(-float(shares.log().mean()), rel=0.02)  # a class unseen
    assert {name for name in values if name.count("/") == 2} == {name for name in logged if name.count("/") == 2}
    normalised = [logged[f"test/loss/{task}"] / values[f"test/loss/{task}"] for task in ("number", "vector", "kind")]
    assert sum(normalised) / 3 == pytest.approx(logged["test/loss_normalised"], rel=1e-5)


class Keep(Callback):
    """Writes what the other callback has found in a process of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
        (values,) = (callback.values for callback in callbacks if isinstance(callback, ConstantMetrics))
        self.path.with_suffix(f".{trainer.global_rank}").write_text(json.dumps(values))


def test_the_same_on_two_processes(tmp_path: Path) -> None:
    one, trained, _ = after_test(Lopsided(batch_size=8))
    data, module = Lopsided(batch_size=4), make_module(tasks=Lopsided().tasks)
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "precision": "32-true"}
    trainer = make_trainer(callbacks=[ConstantMetrics(), Keep(tmp_path / "values")], **options)
    module.trivial_predictions = trained.trivial_predictions
    trainer.test(module, data, verbose=False)
    for rank in range(2):
        found = json.loads((tmp_path / f"values.{rank}").read_text())
        assert found == {name: pytest.approx(value, rel=1e-5) for name, value in one.values.items()}


def test_missing_labels_count_for_nothing_and_an_untrained_network_has_no_constant() -> None:
    callback, module = ConstantMetrics(), make_module()
    trainer = make_trainer(callbacks=[callback])
    trainer.test(module, loader_of(make_batches(2)), verbose=False)
    assert callback.values == {}
    trainer.fit(module, loader_of(make_batches(4)), loader_of(make_batches(1)))
    gappy = with_gaps(make_batches(3, seed=2))
    trainer.test(module, loader_of(gappy), verbose=False)
    numbers = torch.cat([batch["targets"]["number"] for batch in gappy])
    mean = make_rows(32)[1]["number"].mean()
    expected = (numbers[~numbers.isnan()] - mean).abs().mean()
    assert callback.values["test/mae/number"] == pytest.approx(float(expected))


def test_it_can_be_switched_off_and_does_not_look_at_validations() -> None:
    callback, data = ConstantMetrics(enabled=False), TinyData()
    module = make_module(tasks=data.tasks)
    trainer = make_trainer(callbacks=[callback], precision="32-true")
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert callback.values == {}


# ------------------------------------------------------------------------------------------- weights of classes are not
LABELS = torch.tensor([0] * 12 + [1] * 6 + [2] * 2)


@pytest.mark.parametrize(
    ("task", "rows", "majority"),
    [
        (MulticlassClassification(TargetSpec(classes=3), class_weights=[1.0, 5.0, 50.0]), LABELS, [True, False, False]),
        (MulticlassClassification(TargetSpec(classes=3), class_weights=[0.0, 5.0, 50.0]), LABELS, [False, True, False]),
        (SemanticSegmentation(TargetSpec(classes=3), class_weights=[1.0, 5.0, 50.0]), LABELS, [True, False, False]),
        (BinaryClassification(TargetSpec(), pos_weight=9.0), (LABELS > 0).long(), [False]),
        (
            MultilabelClassification(TargetSpec(classes=2), pos_weight=[9.0, 0.01]),
            torch.stack([LABELS > 0, LABELS < 2], 1),
            [False, True],
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "loss") else "",
)
def test_weights_of_classes_do_not_move_the_majority(task: Any, rows: Tensor, majority: list[bool]) -> None:
    prediction = task.trivial_prediction(rows, torch.ones(len(rows)))
    weighted, plain = task.trivial_output(prediction), task.typical_output(prediction)
    assert not torch.equal(weighted, plain)
    found = plain > 0 if len(plain) != 3 else plain == plain.max()
    assert found.tolist() == majority
    assert (weighted > 0 if len(plain) != 3 else weighted == weighted.max()).tolist() != majority or 0.0 in (
        () if task.class_weights is None else task.class_weights
    )


def test_without_weights_both_are_the_same() -> None:
    for task in (Regression(TargetSpec()), partial(Regression, loss="l1")(TargetSpec())):
        prediction = task.trivial_prediction(torch.arange(5.0), torch.ones(5))
        assert torch.equal(task.typical_output(prediction), task.trivial_output(prediction))
