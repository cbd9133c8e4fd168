"""The area under the ROC curve, with sample weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from mtl_lightning.tasks.rows import MISSING


class WeightedBinaryAUROC(Metric):
    """The exact area under the ROC curve, the mean over labels: of all pairs of a 1 and a 0, the share in which the 1
    has the higher probability (equal ones count half), a pair weighing the product of its weights.

    ``BinaryAUROC`` of torchmetrics, and ``MultilabelAUROC``; -100 is a missing label. It keeps an epoch's predictions,
    8 bytes a label. Without a 1, or without a 0, a label's area is 0, and a warning says so.

    Args:
        labels: L.
        options: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    signed: list[Tensor]

    def __init__(self, labels: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.labels = labels
        # Flat, of one dtype: processes may have different numbers of rows, or none.
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("signed", [], dist_reduce_fx="cat")  # a 1 has its weight, a 0 minus its weight, others 0

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add N rows.

        Args:
            prediction: probabilities (N,) or (N, L).
            target: labels (N,) or (N, L): 0, 1 or -100.
            weight: sample weights (N,); 1 each by default.
        """
        shape = (len(target), self.labels)
        scores, target = prediction.reshape(shape).to(self.dtype), target.reshape(shape)
        size = torch.ones_like(scores) if weight is None else weight.to(self.dtype)[:, None].expand(shape)
        signed = torch.where(target == MISSING, 0.0, torch.where(target == 1, size, -size))
        self.scores.append(scores.flatten())
        self.signed.append(signed.flatten())

    def compute(self) -> Tensor:
        """Return the area ()."""
        scores, signed = (
            (torch.cat(part) if isinstance(part, list) else part).reshape(-1, self.labels)
            for part in (self.scores, self.signed)
        )
        return torch.stack([area(scores[:, label], signed[:, label]) for label in range(self.labels)]).mean()


def area(scores: Tensor, signed: Tensor) -> Tensor:
    """Return the area () under the ROC curve.

    Args:
        scores: (N,).
        signed: weights (N,), negative for rows whose label is 0.
    """
    kept = signed != 0
    order = scores[kept].argsort(descending=True)
    ranked, weights = scores[kept][order], signed[kept][order]
    wide = weights.float() if weights.device.type == "mps" else weights.double()
    ones, zeros = wide.clamp(min=0).cumsum(0), (-wide).clamp(min=0).cumsum(0)
    if not len(wide) or ones[-1] == 0 or zeros[-1] == 0:
        missing = "positive" if not len(wide) or ones[-1] == 0 else "negative"
        rank_zero_warn(f"No {missing} samples: the area under the ROC curve has no meaning and is given as 0.")
        return scores.new_zeros(())
    ends = torch.cat([ranked[1:] != ranked[:-1], ranked.new_ones(1, dtype=torch.bool)])  # equal scores are one step
    ones, zeros = ones[ends], zeros[ends]
    start = ones.new_zeros(1)
    heights, widths = torch.cat([start, ones]), torch.cat([start, zeros]).diff()
    return ((heights[1:] + heights[:-1]) / 2 * widths).sum().div(ones[-1] * zeros[-1]).to(scores.dtype)
