"""Metrics of numbers that are predicted with their standard deviations, and of amounts with their chances, weighted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtl_lightning.tasks.weighted import AbsoluteError, RootMeanSquaredError
from mtl_lightning.tasks.weighted_auroc import WeightedBinaryAUROC

_NOMINAL = 1.6448536269514722  # standard deviations to both sides of the mean, within which 90 % are


class FirstAbsoluteError(AbsoluteError):
    """The mean of ``|value - target|``; the value is the first of two columns (N, 2)."""

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the size of each difference (N,)."""
        return super().error(prediction[:, 0], target)


class FirstRootMeanSquaredError(RootMeanSquaredError):
    """The root of the mean of ``(value - target)^2``; the value is the first of two columns (N, 2)."""

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the square of each difference (N,)."""
        return super().error(prediction[:, 0], target)


class NegativeLogLikelihood(AbsoluteError):  # noqa: N818  # no exception
    """The mean of minus the log of the normal density at the target, in nats; of means and deviations (N, 2)."""

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return minus the log of each density (N,)."""
        value, scale = prediction.unbind(1)
        return 0.5 * math.log(2 * math.pi) + scale.log() + 0.5 * ((target - value) / scale).square()


class NormalCoverage(AbsoluteError):  # noqa: N818  # no exception
    """The share of targets within 1.645 standard deviations of the mean (N, 2): 0.9, if these are right.

    It counts as better when it is higher.
    """

    higher_is_better = True

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return whether each target is inside, 0 or 1 (N,)."""
        value, scale = prediction.unbind(1)
        return ((target - value).abs() <= _NOMINAL * scale).to(scale.dtype)


class PositiveAUROC(WeightedBinaryAUROC):
    """The area under the ROC curve of a target above 0; its probability is the second of two columns (N, 2)."""

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add N rows: predictions (N, 2), targets (N,) and, if they have some, sample weights (N,)."""
        super().update(prediction[:, 1], (target > 0).to(torch.int64), weight)
