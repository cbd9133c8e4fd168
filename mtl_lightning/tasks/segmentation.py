"""Semantic segmentation: the class of every pixel."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.dense import DenseTask
from mtl_lightning.tasks.likelihoods import SOFTMAX
from mtl_lightning.tasks.options import at_least_two, counted, merged_spec, weights
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.tasks.trivial import log_class_shares, without_class_weights
from mtl_lightning.tasks.weighted import ClassAccuracy, ClassIoU
from mtl_lightning.types import TargetSpec


class SemanticSegmentation(DenseTask):
    """One of K classes per pixel, learned by softmax cross-entropy (in nats).

    Targets (B, H, W) or (B, 1, H, W): integers 0..K-1, or ``ignore_index`` for a pixel without a label.

    Metrics, from one confusion matrix over the whole set, between 0 and 1, higher is better: ``miou``, the mean over
    classes of intersection over union, without the classes that occur neither in the labels nor in the predictions;
    and ``pixel_accuracy``, the share of labelled pixels whose class is right. Some published code reports 0 or nan for
    an absent class, or means over batches: those figures are not comparable.

    Args:
        spec: what the data says: ``classes`` is K, at least 2; its shape is (H, W), or () where the size varies.
        num_classes: K, where no spec says it.
        class_names: what the classes are called, likewise; there are K of them.
        ignore_index: marks a pixel without a label.
        class_weights: K factors on the loss of pixels by their class. The mean loss divides by the number of pixels,
            not, as ``torch.nn.CrossEntropyLoss`` does, by their summed weight.
        label_smoothing: e in [0, 1) spreads e of the wanted probability evenly over all classes.
        metrics: metrics by name, in place of the default ones; they are fed predicted and true classes (N,).

    Raises:
        ConfigurationError: for another spec, or options out of range.
    """

    dtypes = "an integer dtype"
    calibrated_by = ("temperature",)
    class_weights: Tensor | None

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        ignore_index: int = MISSING,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        metrics: MetricFactories | None = None,
    ) -> None:
        number = counted("SemanticSegmentation", num_classes, class_names, "num_classes")
        spec = merged_spec("SemanticSegmentation", spec, classes=number, names=class_names)
        size = at_least_two(spec.classes, "SemanticSegmentation")
        super().__init__(spec, output_size=size, estimate_size=size, likelihood=SOFTMAX, metrics=metrics)
        self.ignore_index = ignore_index
        self.values = f"classes 0..{size - 1} or {ignore_index} for missing"
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", weights("class_weights", class_weights, size), persistent=False)

    def accepts(self, dtype: torch.dtype) -> bool:
        """Integers only."""
        return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)

    def is_labelled(self, maps: Tensor) -> Tensor:
        """``ignore_index`` is a missing label; compared as int64, since a uint8 would wrap a negative one."""
        return maps.long() != self.ignore_index

    def is_valid(self, maps: Tensor) -> Tensor:
        """Classes are 0..K-1."""
        return ~self.is_labelled(maps) | ((maps >= 0) & (maps < self.output_size))

    def losses(self, output: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
        """Return the cross-entropy of each pixel, in nats."""
        weight = None if self.class_weights is None else self.class_weights.to(output.dtype)
        # An invalid class makes `count` nan, which is reported in words; unclamped, it would stop a GPU for good.
        classes = maps.long().clamp(0, self.output_size - 1)
        return F.cross_entropy(output, classes, weight, reduction="none", label_smoothing=self.label_smoothing)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the logarithms (K,) of the classes' shares of the pixels, as the loss weighs and smooths them."""
        return log_class_shares(rows, weight, self.output_size, self.class_weights, self.label_smoothing)

    def typical_output(self, prediction: Tensor) -> Tensor:
        """Map it to logits (K,) whose largest is that of the majority."""
        return without_class_weights(prediction, self.class_weights)

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Map outputs (B, K, H, W) to the likeliest class as the label (B, H, W), and to probabilities (B, K, H, W)."""
        probability = self.precise(output).softmax(1)
        return {"label": probability.argmax(1), "probability": probability}

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K, H, W) to the classes' probabilities (B, K, H, W)."""
        return self.outputs(output).softmax(1)

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see the likeliest class."""
        return output.argmax(1)

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Feed the classes of the labelled pixels to ``metrics``; does nothing where there is none."""
        super().update(metrics, output, self.maps(target).long(), weight)

    def default_metrics(self) -> MetricFactories:
        """Return the mean intersection over union, and the accuracy over pixels."""
        classes = self.output_size
        return {"miou": partial(ClassIoU, classes), "pixel_accuracy": partial(ClassAccuracy, classes)}
