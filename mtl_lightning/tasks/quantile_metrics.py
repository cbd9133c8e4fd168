"""Metrics of quantiles that take sample weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtl_lightning.tasks.weighted import ElementMean


def pinball(found: Tensor, target: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Return the pinball loss (N, K) of quantiles (N, K) and targets (N,)."""
    level = found.new_tensor(levels)
    away = target.unsqueeze(1) - found
    return torch.maximum(level * away, (level - 1) * away)


class PinballError(ElementMean):
    """The mean over rows and levels of the pinball loss: scikit-learn's ``mean_pinball_loss``, averaged over levels.

    Args:
        levels: of the K quantiles.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, levels: tuple[float, ...], **options: Any) -> None:
        super().__init__(**options)
        self.levels = tuple(levels)

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return each row's mean loss (N,), of quantiles (N, K) and targets (N,)."""
        return pinball(prediction, target.to(prediction.dtype), self.levels).mean(1)


class QuantileError(ElementMean):
    """The mean of ``|quantile - target|`` of one quantile, the median as a rule.

    Args:
        column: which of the K.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, column: int, **options: Any) -> None:
        super().__init__(**options)
        self.column = column

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the size of each difference (N,), of quantiles (N, K) and targets (N,)."""
        return (prediction[:, self.column] - target).abs()


class QuantileCoverage(ElementMean):
    """The share of targets from the lowest to the highest quantile; it should be the difference of their levels."""

    higher_is_better = True

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return 1 for each row (N,) that is covered, of quantiles (N, K) and targets (N,), and 0 for others."""
        return ((prediction[:, 0] <= target) & (target <= prediction[:, -1])).to(self.total.dtype)
