"""Logarithms and softmax over the tasks that are present, safe where none is and whatever an absent task's loss is."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_log(losses: Tensor, present: Tensor, eps: float) -> Tensor:
    """Return ``log(L + eps)`` (T,) of the present tasks' losses, and 0, without a gradient, for the others.

    A negative loss counts as 0 and gets no gradient. At 0 the value is ``log(eps)`` and the slope ``1 / eps``, both
    finite.

    Args:
        losses: (T,).
        present: (T,) bool.
        eps: positive.
    """
    positive = torch.where(present, losses, 1.0).clamp(min=0.0)  # chosen before the logarithm: log of an absent one's
    return torch.where(present, torch.log(positive + eps), 0.0)  # nan would have a nan slope, which 0 does not cancel


def masked_softmax(values: Tensor, present: Tensor) -> Tensor:
    """Return the softmax (T,) of the present tasks' values (T,), and 0 for the others; it takes part in no gradient."""
    weights = torch.softmax(torch.where(present, values.detach(), -torch.inf), dim=0)
    return torch.where(present, weights, 0.0)  # where none is present the softmax is nan
