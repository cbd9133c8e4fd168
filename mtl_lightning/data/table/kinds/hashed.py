"""Fits columns of ids: which buckets the training rows have met."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.readings import Locate
from mtl_lightning.encoding.cells import texts
from mtl_lightning.encoding.kinds.hashed import hashed
from mtl_lightning.encoding.kinds.hashing import packed

__all__ = ["HashedFitter"]


class HashedFitter(KindFitter):
    """Counts the rows of each bucket.

    Args:
        feature: as of :class:`KindFitter`.
        column: see there.
        missing: see there.
        buckets: their number.
        min_count: a bucket with fewer training rows counts as not met.

    Attributes:
        counts: rows by bucket, which may be added to by those of columns that share them.
    """

    kind = "hashed"

    def __init__(
        self, feature: str, column: str, missing: Collection[str] = (), *, buckets: int, min_count: int = 1
    ) -> None:
        super().__init__(feature, column, missing)
        self.buckets, self.min_count = buckets, min_count
        self.counts = np.zeros(buckets, dtype=np.int64)

    def update(self, columns: tuple[Any, ...], locate: Locate) -> None:
        """Add rows."""
        indices, values = texts(columns[0], self.missing)
        self.rows += len(indices)
        self.absent += int((indices < 0).sum())
        met = np.bincount(indices[indices >= 0], minlength=len(values))
        np.add.at(self.counts, hashed(values, self.buckets), met)

    def finish(self) -> dict[str, Any]:
        """Return the number of buckets, and which of them were met."""
        return {"buckets": self.buckets, "met": packed(self.counts >= max(self.min_count, 1))}
