"""Fits columns of vectors: mean, deviation and range of each dimension."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.readings import Locate
from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.kinds.vector import vectors_of
from mtl_lightning.types import DataError

__all__ = ["VectorFitter"]

_BLOCK = 1024  # rows that are taken together
_MOST = 10_000  # dimensions


class VectorFitter(KindFitter):
    """Follows the moments of each dimension, in groups of a fixed number of rows, so that pieces do not matter.

    Args:
        feature: as of :class:`KindFitter`.
        column: see there.
        missing: see there.
        separator: what stands between the numbers of a text; None for JSON.
    """

    kind = "vector"

    def __init__(
        self, feature: str, column: str, missing: Collection[str] = (), *, separator: str | None = None
    ) -> None:
        super().__init__(feature, column, missing)
        self.separator = separator
        self.size: int | None = None
        self._waiting: NDArray[np.float64] = np.empty((0, 0))
        self._count = self._mean = self._squares = np.empty(0)
        self._low = self._high = np.empty(0)

    def update(self, columns: tuple[Any, ...], locate: Locate) -> None:
        """Add rows."""
        found, absent = vectors_of(columns[0], self.separator, self.size, self.missing)
        self.rows += len(absent)
        self.absent += int(absent.sum())
        found = found[~absent]
        if not len(found):
            return
        if self.size is None:
            self._begin(found.shape[1])
        self._low, self._high = np.fmin(self._low, np.fmin.reduce(found)), np.fmax(self._high, np.fmax.reduce(found))
        found = np.concatenate([self._waiting, found])
        whole = len(found) - len(found) % _BLOCK
        for start in range(0, whole, _BLOCK):
            self._take(found[start : start + _BLOCK])
        self._waiting = found[whole:].copy()

    def _begin(self, size: int) -> None:
        if not 0 < size <= _MOST:
            raise CellError(f"expected lists of 1 to {_MOST} numbers, found {size}", 0)
        self.size = size
        self._waiting = np.empty((0, size))
        self._count, self._mean, self._squares = np.zeros(size), np.zeros(size), np.zeros(size)
        self._low, self._high = np.full(size, np.inf), np.full(size, -np.inf)

    def _take(self, found: NDArray[np.float64]) -> None:
        there = ~np.isnan(found)
        count = there.sum(0)
        one = np.maximum(count, 1)
        mean = np.where(there, found, 0.0).sum(0) / one
        squares = np.square(np.where(there, found - mean, 0.0)).sum(0)
        total = np.maximum(self._count + count, 1)
        apart = np.where(count > 0, mean - self._mean, 0.0)
        self._squares = self._squares + squares + apart * apart * self._count * count / total
        self._mean = self._mean + apart * count / total
        self._count = self._count + count

    def finish(self) -> dict[str, Any]:
        """Return mean, deviation and range by dimension.

        Raises:
            DataError: if there was none.
        """
        if self.size is None:
            raise DataError(f"Column {self.columns[0]!r}: expected lists of numbers in the training split, found none.")
        if len(self._waiting):
            self._take(self._waiting)
            self._waiting = self._waiting[:0]
        std = np.sqrt(self._squares / np.maximum(self._count, 1))
        std = np.where(std > 1e-12 * np.abs(self._mean), std, 1.0)
        low, high = (np.where(np.isfinite(one), one, 0.0).tolist() for one in (self._low, self._high))
        return {"separator": self.separator, "mean": self._mean.tolist(), "std": std.tolist(), "low": low, "high": high}
