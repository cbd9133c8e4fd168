"""Fits columns of lists: their elements, and how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from mtl_lightning.data.table.columns import in_order
from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.readings import Locate
from mtl_lightning.encoding.kinds.elements import elements_of
from mtl_lightning.encoding.kinds.hashed import hashed
from mtl_lightning.encoding.kinds.hashing import packed
from mtl_lightning.types import DataError

__all__ = ["ListFitter"]

_MOST = 1_000_000  # different elements
USUAL_LENGTH = 100


class ListFitter(KindFitter):
    """Counts the elements of lists.

    Args:
        feature: as of :class:`KindFitter`.
        column: see there.
        missing: see there.
        separator: what stands between the elements of a text; None for JSON.
        length: how many elements of a list are kept at most.
        min_count: an element, or a bucket, that training rows hold less often counts as not met.
        buckets: hash the elements into so many; None for a vocabulary.

    Attributes:
        counts: how often each element was met, or the elements of each bucket; may be added to by those of columns that
            share them.
    """

    kind = "list"

    def __init__(
        self,
        feature: str,
        column: str,
        missing: Collection[str] = (),
        *,
        separator: str | None = None,
        length: int = USUAL_LENGTH,
        min_count: int = 1,
        buckets: int | None = None,
    ) -> None:
        super().__init__(feature, column, missing)
        self.separator, self.length, self.min_count, self.buckets = separator, length, min_count, buckets
        self.counts: Any = Counter() if buckets is None else np.zeros(buckets, dtype=np.int64)
        self.longest = 0

    def update(self, columns: tuple[Any, ...], locate: Locate) -> None:
        """Add rows."""
        found = elements_of(columns[0], self.separator, self.missing)
        self.rows += len(found.counts)
        self.absent += int(found.absent.sum())
        self.longest = max(self.longest, int(found.counts.max(initial=0)))
        met = np.bincount(found.indices, minlength=len(found.values))
        if self.buckets is not None:
            np.add.at(self.counts, hashed(found.values, self.buckets), met)
            return
        self.counts.update(dict(zip(found.values, met.tolist(), strict=True)))
        if len(self.counts) > _MOST:
            raise DataError(
                f"Column {self.columns[0]!r}: expected lists of at most {_MOST} different elements, found more. Hash "
                f"them: `lists: {{{self.columns[0]}: {{buckets: 200000}}}}`."
            )

    def finish(self) -> dict[str, Any]:
        """Return the elements and the length."""
        known = {"separator": self.separator, "length": max(min(self.longest, self.length), 1)}
        least = max(self.min_count, 1)
        if self.buckets is not None:
            return {**known, "buckets": self.buckets, "met": packed(self.counts >= least)}
        return {**known, "values": in_order(value for value, count in self.counts.items() if count >= least)}
