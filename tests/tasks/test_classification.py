"""One of K classes: cross-entropy, weights, smoothing, missing labels, probabilities, metrics."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from mtl_lightning.tasks import MulticlassClassification
from mtl_lightning.types import TargetSpec

SPEC = TargetSpec(classes=4)


def some_classes(rows: int = 30, missing: int = -100) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    output, target = torch.randn(rows, 4), torch.randint(0, 4, (rows,))
    target[::5] = missing
    return output, target


def test_cross_entropy_by_hand() -> None:
    task = MulticlassClassification(SPEC)
    output = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(5.0), 0.0, 0.0, 0.0], [7.0, 0.0, 0.0, 0.0]])
    target = torch.tensor([2, 0, -100])
    assert task.loss(output, target).item() == pytest.approx(math.log(4.0) + math.log(8 / 5), rel=1e-6)
    assert task.count(target).item() == 2


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_agrees_with_torch(weights: list[float] | None, smoothing: float) -> None:
    output, target = some_classes()
    task = MulticlassClassification(SPEC, class_weights=weights, label_smoothing=smoothing)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(output, target, weight, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(task.loss(output, target), expected)
    assert task.half().loss(output.half(), target).dtype == torch.float32


def test_class_weights_do_not_change_the_count() -> None:
    _, target = some_classes()
    assert MulticlassClassification(SPEC, class_weights=[9.0, 9.0, 9.0, 9.0]).count(target) == 24


@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_another_mark_of_missing_labels(ignore_index: int) -> None:
    output, target = some_classes(missing=ignore_index)
    task = MulticlassClassification(SPEC, ignore_index=ignore_index)
    task.check(target)
    kept = target != ignore_index
    assert task.count(target) == kept.sum()
    torch.testing.assert_close(task.loss(output, target), F.cross_entropy(output[kept], target[kept], reduction="sum"))
    assert task.count(torch.tensor([1, -100])).isnan()


def test_an_invalid_class_does_not_stop_the_device() -> None:
    loss = MulticlassClassification(SPEC).loss(torch.zeros(2, 4), torch.tensor([1, 99]))
    assert loss.isfinite()  # `count` reports it


def test_predictions_and_estimates() -> None:
    task = MulticlassClassification(SPEC)
    output = torch.tensor([[0.0, math.log(5.0), 0.0, 0.0]])
    prediction = task.predict(output)
    torch.testing.assert_close(prediction["probability"], torch.tensor([[1 / 8, 5 / 8, 1 / 8, 1 / 8]]))
    assert prediction["label"].tolist() == [1]
    torch.testing.assert_close(task.estimate(output), prediction["probability"])


def test_metrics_agree_with_scikit_learn() -> None:
    task, metrics = MulticlassClassification(SPEC), MulticlassClassification(SPEC).metrics("val")
    output, target = some_classes(200)
    for rows in (slice(0, 70), slice(70, 200)):
        task.update(metrics, output[rows], target[rows])
    kept = target >= 0
    label = output[kept].argmax(1)
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {"accuracy": accuracy_score(target[kept], label), "f1": f1_score(target[kept], label, average="macro")}
    )
