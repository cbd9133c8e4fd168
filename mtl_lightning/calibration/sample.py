"""The rows that a calibration is fitted to: all labelled ones of a split, or every second, fourth, ... of many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_NUMBERS = 1 << 24  # of outputs that are kept, at most


class Rows(NamedTuple):
    """Rows, each with a label.

    Attributes:
        outputs: (N, K) logits, or predictions in original units.
        targets: (N, D).
        known: (N, D) bool, which targets are labelled.
        weight: (N,), above 0.
        group: (N,) integers, whose values intervals of their own are for; 0 for none.
    """

    outputs: Tensor
    targets: Tensor
    known: Tensor
    weight: Tensor
    group: Tensor


class Sample:
    """Keeps between ``most`` and twice as many rows, spread evenly over what was added; no host sync but now and then.

    Args:
        most: so many rows are kept, if there are as many; fewer where a row has many outputs.
    """

    def __init__(self, most: int) -> None:
        self._most, self._every, self._seen = most, 1, 0
        self._kept: list[Rows] = []
        self._added: list[Rows] = []
        self._waiting = 0

    def add(
        self, outputs: Tensor, targets: Tensor, known: Tensor, weight: Tensor | None = None, group: Tensor | None = None
    ) -> None:
        """Add the rows of a batch, labelled or not; see :class:`Rows`."""
        number = len(outputs)
        sizes = outputs.new_ones(number) if weight is None else weight
        groups = torch.zeros(number, dtype=torch.long, device=outputs.device) if group is None else group
        self._added.append(Rows(outputs.detach(), targets, known, sizes, groups))
        self._waiting += number
        if self._waiting >= self._limit:
            self._fold()

    @property
    def _limit(self) -> int:
        return max(1, min(self._most, _NUMBERS // self._added[0].outputs.shape[1])) if self._added else self._most

    def rows(self) -> Rows:
        """Return what is kept, on the CPU; how much a row counts is a row's weight times that of those left out."""
        self._fold()
        if not self._kept:
            nothing = torch.zeros(0)
            return Rows(nothing[:, None], nothing[:, None], nothing[:, None] > 0, nothing, nothing.long())
        kept = Rows(*(torch.cat(part) for part in zip(*self._kept, strict=True)))
        return kept._replace(weight=self._every * kept.weight)

    def _fold(self) -> None:
        """Choose among the labelled rows that were added, and among all if there are too many."""
        if not self._added:
            return
        limit = self._limit
        added = Rows(*(torch.cat(part) for part in zip(*self._added, strict=True)))
        self._added, self._waiting = [], 0
        labelled = added.known.any(1) & (added.weight > 0)
        added = Rows(*(part[labelled].cpu() for part in added))
        first = -self._seen % self._every
        self._seen += len(added.outputs)
        self._kept.append(Rows(*(part[first :: self._every] for part in added)))
        while sum(len(rows.outputs) for rows in self._kept) >= 2 * limit:
            whole = Rows(*(torch.cat(part) for part in zip(*self._kept, strict=True)))
            self._kept, self._every = [Rows(*(part[::2] for part in whole))], 2 * self._every
