"""Classification of a row: yes or no, one of K classes, or any of M labels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.tasks.base import MetricFactories, feed
from mtl_lightning.tasks.binary import BinaryTask
from mtl_lightning.tasks.class_weights import Balanced, ClassWeightedTask
from mtl_lightning.tasks.focal import best_focal, class_focal, without_focal
from mtl_lightning.tasks.likelihoods import SOFTMAX, Reduction
from mtl_lightning.tasks.options import at_least_two, counted, merged_spec, single_label
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.tasks.trivial import log_class_shares, without_class_weights
from mtl_lightning.tasks.weighted import ClassAccuracy, ClassF1, WeightedBinaryAccuracy, WeightedBinaryF1
from mtl_lightning.tasks.weighted_auroc import WeightedBinaryAUROC
from mtl_lightning.types import ConfigurationError, TargetSpec


class BinaryClassification(BinaryTask):
    """One yes-or-no label a row, learned by binary cross-entropy (in nats).

    Targets (B,) or (B, 1): integers or bools, 0, 1, or -100 for missing; or floats, 0, 1, or nan for missing.

    Metrics: ``accuracy``, ``auroc``, ``f1`` (of the label 1), all between 0 and 1, higher is better.

    Args:
        spec: what the data says; its shape is ``()``; ``classes``, where given, is 2.
        pos_weight: factor on the loss of rows whose label is 1. ``"balanced"`` is (number of 0) / (number of 1) of the
            training rows, fitted by :meth:`fit_target`; it is 1 if all rows have the same label.
        label_smoothing: e in [0, 1) moves the wanted probabilities from 0 and 1 to e / 2 and 1 - e / 2.
        focal: gamma, at least 0, of the focal loss (:mod:`~mtl_lightning.tasks.focal`): the loss of what is true, with
            probability p, is multiplied by (1 - p)^gamma. The paper takes 2; None, or 0, is the cross-entropy.
        soft: labels are probabilities, floats from 0 to 1, as of several people who disagree, or of another network.
            The least value of the cross-entropy then is their entropy. Metrics and figures compare with the likelier
            label, and nothing is calibrated.
        class_names: what 0 and 1 are called, where no spec says it.
        metrics: metrics by name, in place of the default ones; they are fed probabilities and labels of shape (N,).

    Raises:
        ConfigurationError: for another spec, one that the arguments contradict, or options out of range.
    """

    target_kind = "classes"

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        class_names: list[str] | None = None,
        pos_weight: float | Balanced | None = None,
        label_smoothing: float = 0.0,
        focal: float | None = None,
        soft: bool = False,
        metrics: MetricFactories | None = None,
    ) -> None:
        size = counted("BinaryClassification", None, class_names, "num_classes")
        spec = merged_spec("BinaryClassification", spec, classes=size, names=class_names)
        single_label(spec, "BinaryClassification")
        if spec.classes not in (None, 2):
            raise ConfigurationError(
                f"BinaryClassification: expected 2 classes in the TargetSpec, or none given, found {spec.classes}. Use "
                "MulticlassClassification for more."
            )
        super().__init__(
            spec,
            columns=None,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            focal=focal,
            soft=soft,
            reduction="mean",
            metrics=metrics,
        )
        if type(self) is BinaryClassification and pos_weight is None:
            self.batchable = (BinaryClassification, label_smoothing, focal, soft)

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are the probability of a yes."""
        return {"form": "binary", "names": self.spec.named(2)}

    def default_metrics(self) -> MetricFactories:
        """Return accuracy, area under the ROC curve (exact, so it keeps an epoch's predictions) and F1."""
        return {"accuracy": WeightedBinaryAccuracy, "auroc": WeightedBinaryAUROC, "f1": WeightedBinaryF1}


class MulticlassClassification(ClassWeightedTask):
    """One of K classes a row, learned by softmax cross-entropy (in nats).

    Targets (B,) or (B, 1): integers 0..K-1, or ``ignore_index`` for missing.

    Metrics: ``accuracy`` (over rows) and ``f1`` (mean over classes), between 0 and 1, higher is better.

    Args:
        spec: what the data says: ``classes`` is K, at least 2; its shape is ``()``.
        num_classes: K, where no spec says it.
        class_names: what the classes are called, likewise; there are K of them.
        ignore_index: marks a missing label.
        class_weights: K factors on the loss of rows by their class. The mean loss divides by the number of rows, not,
            as ``torch.nn.CrossEntropyLoss`` does, by their summed weight. ``"balanced"`` is N / (C n_k) of N training
            rows, n_k of them of class k, in C classes, fitted by :meth:`fit_target`: all classes weigh alike, and the
            mean weight of rows is 1. A class without training rows has weight 1, and is not counted in C.
        label_smoothing: e in [0, 1) spreads e of the wanted probability evenly over all classes.
        focal: gamma, at least 0, of the focal loss (:mod:`~mtl_lightning.tasks.focal`): the loss of what is true, with
            probability p, is multiplied by (1 - p)^gamma. The paper takes 2; None, or 0, is the cross-entropy.
        soft: labels are probabilities, floats (B, K) whose rows sum to 1, as of several people who disagree, or of
            another network; nan is a missing one. The least value of the cross-entropy then is their entropy. Metrics
            and figures compare with the likeliest class, and nothing is calibrated.
        metrics: metrics by name, in place of the default ones; they are fed probabilities (N, K) and classes (N,).

    Raises:
        ConfigurationError: for another spec, one that the arguments contradict, or options out of range.
    """

    dtypes = "an integer dtype"
    target_kind = "classes"
    calibrated_by: tuple[str, ...] = ("temperature",)
    class_weights: Tensor | None

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        ignore_index: int = MISSING,
        class_weights: list[float] | Balanced | None = None,
        label_smoothing: float = 0.0,
        focal: float | None = None,
        soft: bool = False,
        metrics: MetricFactories | None = None,
    ) -> None:
        number = counted("MulticlassClassification", num_classes, class_names, "num_classes")
        spec = merged_spec("MulticlassClassification", spec, classes=number, names=class_names)
        single_label(spec, "MulticlassClassification")
        size = at_least_two(spec.classes, "MulticlassClassification")
        super().__init__(spec, columns=None, output_size=size, likelihood=SOFTMAX, metrics=metrics)
        self.ignore_index = ignore_index
        self.values = f"classes 0..{size - 1} or {ignore_index} for missing"
        self.label_smoothing = label_smoothing
        self.focal, self.soft = focal, soft
        if soft:
            self.parts, self.calibrated_by = size, ()  # what is calibrated are probabilities of labels that are known
            self.dtypes, self.values = "a floating-point dtype", "probabilities that sum to 1, or nan for missing"
        self.weigh("class_weights", class_weights, size)
        if type(self) is MulticlassClassification and class_weights is None and not soft:
            self.batchable = (MulticlassClassification, size, ignore_index, label_smoothing, focal)

    def balanced(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Return N / (C n_k) of N labelled rows, n_k of them of class k, in C classes; 1 of a class without rows."""
        if self.soft:
            counts = columns[mask].double().sum(0)
        else:
            counts = columns[mask].long().bincount(minlength=self.output_size).double()
        met = counts > 0
        return torch.where(met, counts.sum() / (met.sum() * counts.clamp(min=1)), 1.0)

    def accepts(self, dtype: torch.dtype) -> bool:
        """Integers only; floats where labels are soft."""
        if self.soft:
            return dtype.is_floating_point
        return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)

    def is_labelled(self, elements: Tensor) -> Tensor:
        """``ignore_index`` is a missing label; compared as int64, since a uint8 would wrap a negative one."""
        if self.soft:
            return ~elements.isnan().any(1)
        return elements.long() != self.ignore_index

    def is_valid(self, elements: Tensor) -> Tensor:
        """Classes are 0..K-1; probabilities are from 0 to 1, and sum to 1."""
        if self.soft:
            close = (elements.sum(1, keepdim=True) - 1).abs() <= 1e-3
            return ~self.is_labelled(elements).unsqueeze(1) | ((elements >= 0) & (elements <= 1) & close)
        return ~self.is_labelled(elements) | ((elements >= 0) & (elements < self.output_size))

    def is_whole(self, elements: Tensor) -> bool:
        """The smallest and the largest number say it."""
        if type(self) is not MulticlassClassification or self.soft or 0 <= self.ignore_index < self.output_size:
            return False
        smallest, largest = elements.aminmax()
        return 0 <= smallest.item() <= largest.item() < self.output_size

    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the cross-entropy of each row, in nats, or its focal loss."""
        self.expect_fitted()
        weight = None if self.class_weights is None else self.class_weights.to(output.dtype)
        if self.soft:
            wanted = elements.to(output.dtype) * (1 - self.label_smoothing) + self.label_smoothing / self.output_size
            return class_focal(output, wanted, self.focal or 0.0, weight)
        # An invalid class makes `count` nan, which is reported in words; unclamped, it would stop a GPU for good.
        classes = elements.long().clamp(0, self.output_size - 1)
        if self.focal is not None:
            wanted = F.one_hot(classes, self.output_size).to(output.dtype) * (1 - self.label_smoothing)
            return class_focal(output, wanted + self.label_smoothing / self.output_size, self.focal, weight)
        return F.cross_entropy(output, classes, weight, reduction="none", label_smoothing=self.label_smoothing)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the logarithms (K,) of the classes' shares, as the loss weighs and smooths them.

        With ``focal`` the logits with the least loss are searched for from there.
        """
        logits = log_class_shares(rows, weight, self.output_size, self.class_weights, self.label_smoothing)
        return logits if self.focal is None else best_focal(logits, self.focal, classes=True)

    def typical_output(self, prediction: Tensor) -> Tensor:
        """Map it to logits (K,) whose largest is that of the majority."""
        if self.focal is not None:
            prediction = without_focal(prediction, self.focal, classes=True)
        return without_class_weights(prediction, self.class_weights)

    def metric_target(self, elements: Tensor) -> Tensor:
        """Metrics take classes: of soft labels the likeliest one."""
        return elements.argmax(1) if self.soft else elements

    def as_shown(self, target: Tensor) -> Tensor:
        """Figures take classes, too."""
        return torch.where(self.labelled(target), target.argmax(1), MISSING) if self.soft else target

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Map outputs (B, K) to the classes' probabilities (B, K) and the likeliest class as the label (B,)."""
        probability = self.for_metrics(output)
        return {"probability": probability, "label": probability.argmax(-1)}

    def final(self, output: Tensor) -> Tensor | dict[str, Tensor]:
        """Map outputs (B, K) to probabilities alone, unless a subclass predicts something else."""
        own = type(self).predict is MulticlassClassification.predict
        return self.for_metrics(output) if own else self.predict(output)

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to the classes' probabilities (B, K)."""
        return self.outputs(output).softmax(-1)

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see probabilities."""
        return self.precise(output).softmax(-1)

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are probabilities of classes."""
        return {"form": "classes", "names": self.spec.named(self.output_size)}

    def default_metrics(self) -> MetricFactories:
        """Return the accuracy over rows and the mean F1 over classes."""
        size = self.output_size
        return {
            "accuracy": partial(ClassAccuracy, num_classes=size),
            "f1": partial(ClassF1, num_classes=size),
        }


class MultilabelClassification(BinaryTask):
    """M yes-or-no labels a row, each of which may be missing, learned by binary cross-entropy (in nats).

    Targets (B, M): integers or bools, 0, 1, or -100 for missing; or floats, 0, 1, or nan for missing. Every labelled
    entry is one element of the loss.

    Metrics: ``accuracy`` (over labelled entries), ``auroc`` and ``f1`` (means over labels), between 0 and 1, higher is
    better.

    Args:
        spec: what the data says: M, at least 2, is its ``classes``, or the D of its shape ``(D,)``.
        num_labels: M, where no spec says it.
        label_names: what the labels are called, likewise; there are M of them.
        pos_weight: factor on the loss of entries whose label is 1: one for all labels, or M. ``"balanced"`` is (number
            of 0) / (number of 1) of each label in the training rows, fitted by :meth:`fit_target`; 1 of a constant one.
        label_smoothing: e in [0, 1) moves the wanted probabilities from 0 and 1 to e / 2 and 1 - e / 2.
        focal: gamma, at least 0, of the focal loss (:mod:`~mtl_lightning.tasks.focal`): the loss of what is true, with
            probability p, is multiplied by (1 - p)^gamma. The paper takes 2; None, or 0, is the cross-entropy.
        soft: labels are probabilities, floats from 0 to 1, as of several people who disagree, or of another network.
            The least value of the cross-entropy then is their entropy. Metrics and figures compare with the likelier
            label, and nothing is calibrated.
        reduction: ``"sum"`` counts the task once per label in the uncertainty term, ``"mean"`` counts it as one
            (:func:`~mtl_lightning.tasks.likelihoods.of_reduction`).
        metrics: metrics by name, in place of the default ones; they are fed probabilities and labels (N, M), where -100
            is a missing label: give them ``ignore_index: -100``.

    Raises:
        ConfigurationError: for another spec, one that the arguments contradict, or options out of range.
    """

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        num_labels: int | None = None,
        label_names: list[str] | None = None,
        pos_weight: float | list[float] | Balanced | None = None,
        label_smoothing: float = 0.0,
        focal: float | None = None,
        soft: bool = False,
        reduction: Reduction = "mean",
        metrics: MetricFactories | None = None,
    ) -> None:
        number = counted("MultilabelClassification", num_labels, label_names, "num_labels")
        given = {"shape": None if number is None or spec is not None else (number,), "names": label_names}
        called = {"classes": "num_labels", "names": "label_names"}
        spec = merged_spec("MultilabelClassification", spec, called, classes=number, **given)
        found = spec.classes if spec.classes or not spec.shape else spec.shape[0]
        size = at_least_two(found, type(self).__name__, "num_labels")
        if spec.shape not in ((), (size,)):
            raise ConfigurationError(
                f"MultilabelClassification: expected the shape ({size},) for {size} labels in the TargetSpec, found "
                f"{spec.shape}."
            )
        super().__init__(
            spec,
            columns=size,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            focal=focal,
            soft=soft,
            reduction=reduction,
            metrics=metrics,
        )

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are a probability for each label."""
        return {"form": "labels", "names": self.spec.named(self.output_size)}

    def default_metrics(self) -> MetricFactories:
        """Return the accuracy over entries, and the means over labels of the area under the ROC curve and of F1."""
        size = self.output_size
        return {
            "accuracy": WeightedBinaryAccuracy,
            "auroc": partial(WeightedBinaryAUROC, labels=size),
            "f1": partial(WeightedBinaryF1, labels=size),
        }

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Feed the rows that have a label to ``metrics``; does nothing where there is none."""
        elements = self.elements(target)
        mask = self.is_labelled(elements)
        rows = mask.any(1) if weight is None else mask.any(1) & (weight > 0)
        if rows.any():
            labels = torch.where(mask, self.metric_target(torch.where(mask, elements, 0)), MISSING)
            shown = self.for_metrics(output.detach())[rows]
            feed(metrics, shown, labels[rows], None if weight is None else weight[rows])
