"""Metrics that take sample weights, which those of torchmetrics do not; without weights they give the same figures.

An element of weight w counts as w elements of weight 1: the figures are those of scikit-learn's ``sample_weight``. What
has the weight 0 counts nowhere. Sums of weights are in float32; what has no weight is counted in integers.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mtl_lightning.tasks.rows import MISSING


class Counts(Metric):
    """Counts (C, L) of C kinds of elements and L labels or classes, added over batches and processes."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counted: Tensor
    weighed: Tensor

    def __init__(self, kinds: int, labels: int, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("counted", torch.zeros(kinds, labels, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("weighed", torch.zeros(kinds, labels), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add N elements.

        Args:
            prediction: probabilities (N,), (N, M) or (N, K), or labels.
            target: labels (N,) or (N, M).
            weight: sample weights (N,); 1 each by default.
        """
        counts = self.count(prediction, target, weight)
        if weight is None:
            self.counted += counts
        else:
            self.weighed += counts

    @abstractmethod
    def count(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Return the counts (C, L) of a batch, integers if there is no weight."""

    @property
    def totals(self) -> Tensor:
        """The counts (C, L) of everything seen, float."""
        return self.counted + self.weighed


# ------------------------------------------------------------------------------------------------------------ yes or no
def _decisions(probability: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is predicted, what is true, and what is labelled, each (N, L) bool."""
    shape = (len(target), -1)
    said, target = (probability > 0.5).reshape(shape), target.reshape(shape)
    return said, target == 1, target != MISSING


def _sum_rows(tables: list[Tensor], weight: Tensor | None) -> Tensor:
    """Sum C tables (N, L) bool over their rows, to (C, L)."""
    table = torch.stack(tables)
    return table.sum(1) if weight is None else (table * weight.float()[:, None]).sum(1)


class WeightedBinaryAccuracy(Counts):
    """The share of yes-or-no labels that are predicted right, at a threshold of 0.5, over all labels together.

    ``BinaryAccuracy`` of torchmetrics, and ``MultilabelAccuracy(average="micro")``; -100 is a missing label.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(2, 1, **options)

    def count(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Return how many are right, and how many are labelled."""
        said, true, labelled = _decisions(prediction, target)
        return _sum_rows([(said == true) & labelled, labelled], weight).sum(1, keepdim=True)

    def compute(self) -> Tensor:
        """Return the accuracy ()."""
        right, every = self.totals[:, 0].unbind()
        return right / every


class WeightedBinaryF1(Counts):
    """F1 of the label 1, the mean over labels; 0 for a label that is neither predicted nor true anywhere.

    ``BinaryF1Score`` of torchmetrics, and ``MultilabelF1Score``; -100 is a missing label.

    Args:
        labels: L.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, labels: int = 1, **options: Any) -> None:
        super().__init__(3, labels, **options)

    def count(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Return how many are rightly predicted, predicted, and true."""
        said, true, labelled = _decisions(prediction, target)
        return _sum_rows([said & true & labelled, said & labelled, true & labelled], weight)

    def compute(self) -> Tensor:
        """Return F1 ()."""
        both, said, true = self.totals.unbind()
        return torch.where(said + true > 0, 2 * both / (said + true), 0.0).mean()


# -------------------------------------------------------------------------------------------------------------- classes
class _ClassCounts(Counts):
    """How often each of K classes is rightly predicted, predicted, and true (3, K).

    Args:
        num_classes: K.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(3, num_classes, **options)
        self.num_classes = num_classes

    def count(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Count labels by class; probabilities (N, K) stand for the likeliest class."""
        said = prediction.argmax(1) if prediction.dim() > target.dim() else prediction
        said, true = said.flatten().long(), target.flatten().long()
        hit = said == true

        def by_class(classes: Tensor, weights: Tensor | None) -> Tensor:
            if weights is None:
                return torch.bincount(classes, minlength=self.num_classes)
            wide = weights.float() if weights.device.type == "mps" else weights.double()
            return wide.new_zeros(self.num_classes).index_add(0, classes, wide)  # `bincount` refuses determinism

        mine = None if weight is None else weight.flatten()
        of_hits = None if mine is None else mine[hit]
        return torch.stack([by_class(true[hit], of_hits), by_class(said, mine), by_class(true, mine)])


class ClassAccuracy(_ClassCounts):
    """The share of elements whose class is predicted right: ``MulticlassAccuracy(average="micro")``."""

    def compute(self) -> Tensor:
        """Return the accuracy ()."""
        both, _, true = self.totals.unbind()
        return both.sum() / true.sum()


class ClassF1(_ClassCounts):
    """The mean of F1 over the classes that are predicted or true anywhere: ``MulticlassF1Score(average="macro")``."""

    def compute(self) -> Tensor:
        """Return F1 ()."""
        both, said, true = self.totals.unbind()
        seen = said + true > 0
        return (2 * both / (said + true))[seen].mean()


class ClassIoU(_ClassCounts):
    """The mean over classes of intersection over union, of the classes that are predicted or true anywhere.

    ``MulticlassJaccardIndex(average="macro")`` of torchmetrics.
    """

    def compute(self) -> Tensor:
        """Return mIoU ()."""
        both, said, true = self.totals.unbind()
        seen = said + true > 0
        return (both / (said + true - both))[seen].mean()


# --------------------------------------------------------------------------------------------------------------- errors
class ElementMean(Metric):
    """The mean over elements of an error.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    total: Tensor
    counted: Tensor
    weighed: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("counted", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("weighed", torch.zeros(()), dist_reduce_fx="sum")

    @abstractmethod
    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the error of each element (N,)."""

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add N elements: predictions (N,), targets (N,) and, if they have some, sample weights (N,)."""
        error = self.error(prediction, target)
        if weight is None:
            self.total += error.sum()
            self.counted += error.numel()
        else:
            self.total += (error * weight).sum()
            self.weighed += weight.sum()

    def compute(self) -> Tensor:
        """Return the mean ()."""
        return self.total / (self.counted + self.weighed)


class AbsoluteError(ElementMean):
    """The mean of ``|prediction - target|``: ``MeanAbsoluteError`` of torchmetrics."""

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the size of each difference (N,)."""
        return (prediction - target).abs()


class RelativeError(ElementMean):
    """The mean of ``|prediction - target| / |target|``: ``MeanAbsolutePercentageError`` of torchmetrics."""

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the size of each difference relative to the target (N,), which counts as at least 1.17e-6."""
        return (prediction - target).abs() / target.abs().clamp(min=1.17e-6)


class RootMeanSquaredError(ElementMean):
    """The root of the mean squared difference: ``MeanSquaredError(squared=False)`` of torchmetrics."""

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the square of each difference (N,)."""
        return (prediction - target).square()

    def compute(self) -> Tensor:
        """Return the root ()."""
        return super().compute().sqrt()
