"""What one and several yes-or-no labels per row have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.class_weights import Balanced, ClassWeightedTask
from mtl_lightning.tasks.focal import best_focal, binary_focal, without_focal
from mtl_lightning.tasks.likelihoods import BERNOULLI, Reduction, of_reduction
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.tasks.trivial import shares
from mtl_lightning.types import TargetSpec


class BinaryTask(ClassWeightedTask):
    """Independent yes-or-no labels with outputs that are logits; the subclasses describe the arguments.

    Targets are integers or bools, 0, 1, or -100 for missing; or floats, 0, 1, or nan for missing.
    """

    dtypes = "an integer, bool or floating-point dtype"
    values = f"0, 1, or a missing label ({MISSING} in integers, nan in floats)"
    pos_weight: Tensor | None
    calibrated_by: tuple[str, ...] = ("platt", "isotonic")

    def __init__(
        self,
        spec: TargetSpec,
        *,
        columns: int | None,
        pos_weight: float | Sequence[float] | Balanced | None,
        label_smoothing: float,
        focal: float | None,
        soft: bool,
        reduction: Reduction,
        metrics: MetricFactories | None,
    ) -> None:
        size = columns or 1
        likelihood = of_reduction(BERNOULLI, size, reduction)
        super().__init__(spec, columns=columns, output_size=size, likelihood=likelihood, metrics=metrics)
        self.label_smoothing = label_smoothing
        self.focal, self.soft = focal, soft
        if soft:
            self.dtypes, self.values = "a floating-point dtype", "probabilities from 0 to 1, or nan for missing"
            self.calibrated_by = ()  # what is calibrated are probabilities of labels that are known
        self.weigh("pos_weight", [pos_weight] * size if isinstance(pos_weight, int | float) else pos_weight, size)

    def balanced(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Return (number of 0) / (number of 1) of each label; 1 where either is 0."""
        ones = torch.where(mask, columns, 0).double().sum(0)
        zeros = mask.sum(0) - ones
        return torch.where((ones > 0) & (zeros > 0), zeros / ones, 1.0)

    def accepts(self, dtype: torch.dtype) -> bool:
        """Integers and bools, and floats that hold 0 and 1; floats alone where labels are soft."""
        return dtype.is_floating_point if self.soft else not dtype.is_complex

    def is_labelled(self, elements: Tensor) -> Tensor:
        """``nan`` in floats and ``-100`` in integers are missing labels."""
        return ~elements.isnan() if elements.is_floating_point() else elements.long() != MISSING

    def is_valid(self, elements: Tensor) -> Tensor:
        """Labels are 0 or 1, or between them where they are soft."""
        if self.soft:
            return ~self.is_labelled(elements) | ((elements >= 0) & (elements <= 1))
        return ~self.is_labelled(elements) | (elements == 0) | (elements == 1)

    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the binary cross-entropy of each element, in nats, or its focal loss."""
        self.expect_fitted()
        output = output[:, 0] if self.columns is None else output
        wanted = elements.to(output.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.focal is not None:
            return binary_focal(output, wanted, self.focal, self.pos_weight)
        return F.binary_cross_entropy_with_logits(output, wanted, pos_weight=self.pos_weight, reduction="none")

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the logits (K,) of the share of ones of each label, as the loss weighs and smooths them.

        With ``focal`` the logits with the least loss are searched for from there.
        """
        labels, mask = self.columns_of(rows)
        ones = shares(labels, mask, weight) * (1 - self.label_smoothing) + self.label_smoothing / 2
        logits = ones.logit()
        if self.pos_weight is not None:
            logits = (self.pos_weight.to(ones.dtype) * ones).clamp(min=1e-12).log() - (1 - ones).log()
        return logits if self.focal is None else best_focal(logits, self.focal, classes=False)

    def typical_output(self, prediction: Tensor) -> Tensor:
        """Map it to logits (K,) that are above 0 where ones are the majority."""
        if self.focal is not None:
            prediction = without_focal(prediction, self.focal, classes=False)
        if self.pos_weight is None:
            return prediction
        return prediction - self.pos_weight.to(prediction).clamp(min=1e-12).log()

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Map outputs (B, K) to the probability of a 1 and the likelier label, both (B,), or both (B, M)."""
        probability = self.probability(output)
        return {"probability": probability, "label": (probability > 0.5).long()}

    def probability(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to the probability of a 1, (B,) or (B, M)."""
        probability = self.precise(output).sigmoid()
        return probability[:, 0] if self.columns is None else probability

    def final(self, output: Tensor) -> Tensor | dict[str, Tensor]:
        """Map outputs (B, K) to probabilities alone, unless a subclass predicts something else."""
        return self.probability(output) if type(self).predict is BinaryTask.predict else self.predict(output)

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to the probabilities (B, K) of a 1."""
        return self.outputs(output).sigmoid()

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see probabilities."""
        return self.predict(output)["probability"]

    def metric_target(self, elements: Tensor) -> Tensor:
        """Metrics take integers: of soft labels the likelier one."""
        return (elements > 0.5).long() if self.soft else elements.long()

    def as_shown(self, target: Tensor) -> Tensor:
        """Figures take integers, too."""
        if not self.soft:
            return target
        return torch.where(target.isnan(), MISSING, (target > 0.5).long())
