"""One and several yes-or-no labels: cross-entropy, weights, smoothing, probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torch import Tensor

from mtl_lightning.tasks import BinaryClassification, MultilabelClassification
from mtl_lightning.types import TargetSpec

NAN = float("nan")


def some_labels(rows: int, labels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, M), integers (B, M) with missing ones, and the mask (B, M) of labelled ones."""
    torch.manual_seed(0)
    output, target, mask = (
        torch.randn(rows, labels),
        torch.randint(0, 2, (rows, labels)),
        torch.rand(rows, labels) < 0.7,
    )
    return output, target.masked_fill(~mask, -100), mask


def test_binary_cross_entropy_by_hand() -> None:
    task = BinaryClassification(TargetSpec())
    output = torch.tensor([[0.0], [math.log(3.0)], [math.log(3.0)], [9.0]])  # probabilities 1/2, 3/4, 3/4
    expected = -(math.log(0.5) + math.log(0.75) + math.log(0.25))
    for target in (torch.tensor([1, 1, 0, -100]), torch.tensor([1.0, 1.0, 0.0, NAN])):
        assert task.loss(output, target).item() == pytest.approx(expected, rel=1e-6)
        assert task.count(target).item() == 3
    assert task.loss(output[:3], torch.tensor([True, True, False])).item() == pytest.approx(expected, rel=1e-6)


def test_every_labelled_entry_is_an_element() -> None:
    task = MultilabelClassification(TargetSpec(classes=3))
    output, target, mask = some_labels(20, 3)
    expected = F.binary_cross_entropy_with_logits(output[mask], target[mask].float(), reduction="sum")
    torch.testing.assert_close(task.loss(output, target), expected)
    assert task.count(target) == mask.sum()
    as_floats = target.float().masked_fill(~mask, NAN)
    assert torch.equal(task.loss(output, as_floats), task.loss(output, target))


def test_gradient_is_exactly_zero_at_unlabelled_entries() -> None:
    task = MultilabelClassification(TargetSpec(classes=3))
    output, target, mask = some_labels(20, 3)
    (gradient,) = torch.autograd.grad(task.loss(output.requires_grad_(), target), output)
    assert gradient[mask].ne(0).all()
    assert gradient[~mask].eq(0).all()


@pytest.mark.parametrize("pos_weight", [3.0, [3.0, 0.5]])
def test_positive_weight(pos_weight: float | list[float]) -> None:
    plain = MultilabelClassification(TargetSpec(classes=2))
    task = MultilabelClassification(TargetSpec(classes=2), pos_weight=pos_weight)
    output, target, _ = some_labels(20, 2)
    factors = torch.where(target == 1, torch.tensor(pos_weight).expand(2), 1.0)
    expected = (plain.elementwise_loss(output, target) * factors)[target >= 0].sum()
    torch.testing.assert_close(task.loss(output, target), expected)
    assert task.half().loss(output.half(), target).dtype == torch.float32


def test_label_smoothing() -> None:
    task = BinaryClassification(TargetSpec(), label_smoothing=0.2)
    output = torch.tensor([[0.3], [-1.2]])
    wanted = torch.tensor([0.9, 0.1])
    expected = F.binary_cross_entropy_with_logits(output[:, 0], wanted, reduction="sum")
    torch.testing.assert_close(task.loss(output, torch.tensor([1, 0])), expected)


def test_predictions_and_estimates() -> None:
    output = torch.tensor([[0.0], [math.log(3.0)], [-math.log(3.0)]])
    task = BinaryClassification(TargetSpec())
    prediction = task.predict(output)
    torch.testing.assert_close(prediction["probability"], torch.tensor([0.5, 0.75, 0.25]))
    assert prediction["label"].tolist() == [0, 1, 0]
    torch.testing.assert_close(task.estimate(output), torch.tensor([[0.5], [0.75], [0.25]]))
    labels = MultilabelClassification(TargetSpec(shape=(3,)))
    prediction = labels.predict(output.T)
    torch.testing.assert_close(prediction["probability"], torch.tensor([[0.5, 0.75, 0.25]]))
    assert prediction["label"].tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("as_floats", [False, True])
def test_binary_metrics_agree_with_scikit_learn(as_floats: bool) -> None:
    task = BinaryClassification(TargetSpec())
    output, target, mask = some_labels(200, 1)
    output, target, mask = output, target[:, 0], mask[:, 0]
    metrics = task.metrics("val")
    for rows in (slice(0, 90), slice(90, 200)):
        part = target[rows].float().masked_fill(~mask[rows], NAN) if as_floats else target[rows]
        task.update(metrics, output[rows], part)
    probability, label = output[mask, 0].sigmoid(), target[mask]
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            "accuracy": accuracy_score(label, probability > 0.5),
            "auroc": roc_auc_score(label, probability),
            "f1": f1_score(label, probability > 0.5),
        }
    )


def test_multilabel_metrics_agree_with_scikit_learn() -> None:
    task = MultilabelClassification(TargetSpec(classes=3))
    output, target, mask = some_labels(200, 3)
    metrics = task.metrics("val")
    for rows in (slice(0, 90), slice(90, 200)):
        task.update(metrics, output[rows], target[rows])
    probability = output.sigmoid()

    def mean_over_labels(score: Any, values: Tensor) -> float:
        return float(sum(score(target[mask[:, m], m], values[mask[:, m], m]) for m in range(3)) / 3)

    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            "accuracy": accuracy_score(target[mask], probability[mask] > 0.5),
            "auroc": mean_over_labels(roc_auc_score, probability),
            "f1": mean_over_labels(f1_score, probability > 0.5),
        }
    )
