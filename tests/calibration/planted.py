"""Outputs that are known to be right, and made wrong on purpose."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR = 3.0
"""By which logits are too large: a network that says 95 % is right in 73 % of the rows."""


def classes(rows: int, seed: int, size: int = 5) -> tuple[Tensor, Tensor]:
    """Logits (N, K) that are three times too large, and classes (N,) drawn by the right ones."""
    random = torch.Generator().manual_seed(seed)
    right = torch.randn(rows, size, generator=random) * 1.5
    return FACTOR * right, torch.multinomial(right.softmax(1), 1, generator=random)[:, 0]


def yes_or_no(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits (N,) that are three times too large, and labels (N,)."""
    random = torch.Generator().manual_seed(seed)
    right = torch.randn(rows, generator=random) * 1.5 - 0.5
    return FACTOR * right, (torch.rand(rows, generator=random) < right.sigmoid()).long()


def errors(rows: int, seed: int) -> Tensor:
    """The size (N, 1) of errors with long tails."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 1, generator=random).abs() ** 1.5 * 40
