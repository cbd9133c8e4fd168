"""Metrics of levels in order that take sample weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtl_lightning.tasks.weighted import AbsoluteError, Counts


class RankError(AbsoluteError):
    """The mean of ``|predicted level - true level|``, in levels."""

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return how many levels each row (N,) is away; probabilities (N, K) stand for the likeliest level."""
        said = prediction.argmax(1) if prediction.dim() > target.dim() else prediction
        return (said - target).abs().to(self.total.dtype)


class QuadraticKappa(Counts):
    r"""Cohen's kappa with quadratic weights, :math:`1 - \sum w o / \sum w e` over pairs of a true and a predicted
    level: w is the square of their difference, o how often the pair is met, e how often it would be by chance.

    ``MulticlassCohenKappa(weights="quadratic")`` of torchmetrics, but for 0, rather than nan, where all rows are of one
    level, which is predicted: then there is nothing beyond chance.

    Args:
        num_classes: K.
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, num_classes, **options)
        self.num_classes = num_classes

    def count(self, prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Return how often each true level (rows) is predicted as each (columns)."""
        said = prediction.argmax(1) if prediction.dim() > target.dim() else prediction
        size = self.num_classes
        pairs = target.flatten().long() * size + said.flatten().long()
        if weight is None:
            return torch.bincount(pairs, minlength=size * size).reshape(size, size)
        wide = weight.float() if weight.device.type == "mps" else weight.double()
        return wide.new_zeros(size * size).index_add(0, pairs, wide).reshape(size, size)

    def compute(self) -> Tensor:
        """Return kappa ()."""
        found = self.totals
        ranks = torch.arange(self.num_classes, dtype=found.dtype, device=found.device)
        away = (ranks[:, None] - ranks).square()
        chance = (away * found.sum(1, keepdim=True) * found.sum(0)).sum() / found.sum()
        return torch.where(chance > 0, 1 - (away * found).sum() / chance, 0.0)
