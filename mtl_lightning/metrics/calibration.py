"""Whether probabilities are met and intervals hold, with sample weights; fed what predictions hold, and the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mtl_lightning.types import ConfigurationError

__all__ = ["BrierScore", "ExpectedCalibrationError", "IntervalCoverage", "IntervalWidth"]

_MISSING = -100  # a label that is not there


class ExpectedCalibrationError(Metric):
    r"""How far probabilities are from the shares in which they are met: :math:`\sum_b (w_b / w) |acc_b - conf_b|`.

    `Obtaining Well Calibrated Probabilities Using Bayesian Binning
    <https://ojs.aaai.org/index.php/AAAI/article/view/9602>`_ (Naeini et al., 2015): over bins of equal width, the
    weight of a bin times the difference between its mean probability and its share of rows in which that is met. Of
    yes-or-no labels the probability is that of a yes, over all labels together; of classes it is the largest, met where
    that class is the true one (`Guo et al., 2017 <https://arxiv.org/abs/1706.04599>`_). torchmetrics'
    ``CalibrationError(norm="l1")``; that of a perfect forecast of few rows is above 0, too.

    Args:
        bins: their number; bin b holds probabilities from b / bins to below (b + 1) / bins, the last one 1 too.
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    sums: Tensor

    def __init__(self, bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        if bins < 1:
            raise ConfigurationError(f"ExpectedCalibrationError: `bins`: expected at least 1, found {bins}.")
        self.bins = int(bins)
        self.add_state("sums", torch.zeros(3, self.bins), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add N rows.

        Args:
            prediction: probabilities of a yes (N,) or (N, M), or of classes (N, K).
            target: labels (N,) or (N, M), 0, 1 or -100 for a missing one; or classes (N,).
            weight: sample weights (N,); 1 each by default.
        """
        confidence, met, size = confidences(prediction, target, weight)
        place = (confidence * self.bins).long().clamp(0, self.bins - 1)
        parts = torch.stack([size, size * confidence, size * met]).to(self.sums.dtype)
        self.sums += torch.zeros_like(self.sums).index_add(1, place, parts)

    def compute(self) -> Tensor:
        """Return the error (), between 0 and 1; nan if nothing was added."""
        size, confidence, met = self.sums.unbind()
        return (confidence - met).abs().sum() / size.sum()

    def curve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean probability, the share met, and the share of all rows, of each bin that has rows."""
        size, confidence, met = self.sums[:, self.sums[0] > 0]
        return confidence / size, met / size, size / size.sum()


class BrierScore(Metric):
    """The mean squared difference between probabilities and what happened; 0 is perfect.

    `Verification of Forecasts Expressed in Terms of Probability
    <https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2>`_ (Brier, 1950). Of yes-or-no labels the mean
    of (p - y)^2, as scikit-learn's ``brier_score_loss`` has it, between 0 and 1; of classes the mean over rows of the
    sum over classes, as in the paper, between 0 and 2.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    sums: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("sums", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add N rows, as to :class:`ExpectedCalibrationError`."""
        if prediction.dim() > target.dim():
            truth = torch.nn.functional.one_hot(target.long(), prediction.shape[1])
            error = (prediction - truth.to(prediction.dtype)).square().sum(1)
            size = torch.ones_like(error) if weight is None else weight.to(error.dtype)
        else:
            probability, met, size = confidences(prediction, target, weight)
            error = (probability - met).square()
        self.sums += torch.stack([(size * error).sum(), size.sum()]).to(self.sums.dtype)

    def compute(self) -> Tensor:
        """Return the score (); nan if nothing was added."""
        return self.sums[0] / self.sums[1]


class _MeanOfIntervals(Metric):
    """A mean over intervals and the numbers they are for.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("sums", torch.zeros(2), dist_reduce_fx="sum")

    def values(self, low: Tensor, high: Tensor, target: Tensor) -> Tensor:
        """Return what the mean is taken of (N,)."""
        raise NotImplementedError

    def update(self, low: Tensor, high: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add the ends (N,) of N intervals, the true numbers (N,), and sample weights (N,), 1 each by default."""
        found = self.values(low, high, target)
        size = torch.ones_like(found) if weight is None else weight.to(found.dtype)
        self.sums += torch.stack([(size * found).sum(), size.sum()]).to(self.sums.dtype)

    def compute(self) -> Tensor:
        """Return the mean (); nan if nothing was added."""
        return self.sums[0] / self.sums[1]


class IntervalCoverage(_MeanOfIntervals):
    """The share of numbers that lie in their interval, its ends included."""

    def values(self, low: Tensor, high: Tensor, target: Tensor) -> Tensor:
        """Return 1 where a number is inside, else 0 (N,)."""
        return ((low <= target) & (target <= high)).to(torch.promote_types(low.dtype, torch.float32))


class IntervalWidth(_MeanOfIntervals):
    """The mean width of intervals, in the units of their ends: of two with the same coverage the narrower says more."""

    higher_is_better = False

    def values(self, low: Tensor, high: Tensor, target: Tensor) -> Tensor:
        """Return the widths (N,)."""
        return high - low


def confidences(prediction: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities, whether each is met (0 or 1), and how much it counts, each (N,), missing labels left out.

    Args:
        prediction: (N,), (N, M) or (N, K), as of :class:`ExpectedCalibrationError`.
        target: (N,) or (N, M).
        weight: (N,), or None.
    """
    if prediction.dim() > target.dim():
        confidence, said = prediction.max(1)
        met = (said == target).to(prediction.dtype)
        size = torch.ones_like(confidence) if weight is None else weight.to(confidence.dtype)
        return confidence, met, size
    known = target != _MISSING
    rows = torch.ones(len(target), device=target.device) if weight is None else weight
    sizes = rows.to(prediction.dtype).reshape(-1, *(1 for _ in target.shape[1:])).expand(target.shape)
    return prediction[known], (target == 1).to(prediction.dtype)[known], sizes[known]
