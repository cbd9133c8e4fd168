"""Weights that are not negative and sum to 1, of which some tasks' may be absent."""

from __future__ import annotations

import torch
from torch import Tensor


def project_to_simplex(values: Tensor) -> Tensor:
    """Map numbers (P,) to the nearest weights (P,), which are not negative and sum to 1.

    The numbers are lowered by one threshold and cut off at 0: Held, Wolfe and Crowder, `Validation of subgradient
    optimization <https://doi.org/10.1007/BF01580223>`_, 1974.
    """
    values = values - values.max()  # which changes nothing, but keeps the 1 from drowning in large numbers
    largest = values.sort(descending=True).values
    thresholds = (largest.cumsum(0) - 1) / torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    threshold = thresholds.masked_fill(largest <= thresholds, -torch.inf).max()  # of the most entries that stay above
    lowered = (values - threshold).clamp(min=0)
    return lowered / lowered.sum()  # away with rounding errors, which would add up over many updates


def share_of(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Map some tasks' weights (P,), part of a simplex, to the same scaled to sum to 1, and to their sum ().

    Scaled back by that sum, changed weights fit the absent tasks' again. All 0 means equal shares.
    """
    total = weights.sum()
    return torch.where(total > 0, weights / total.clamp(min=torch.finfo(weights.dtype).tiny), 1 / len(weights)), total
