"""Fits columns of free text: which buckets of words and groups of letters the training rows have met."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.readings import Locate
from mtl_lightning.encoding.kinds.hashing import packed
from mtl_lightning.encoding.kinds.text import tokens_of

__all__ = ["TextFitter"]


class TextFitter(KindFitter):
    """Counts the words and groups of letters of each bucket.

    Args:
        feature: as of :class:`KindFitter`.
        column: see there.
        missing: see there.
        buckets: their number.
        length: how many codes of a text are kept at most.
        ngrams: the least and the greatest number of letters of a group; None for words alone.
        min_count: a bucket that training rows meet less often counts as not met.
    """

    kind = "text"

    def __init__(
        self,
        feature: str,
        column: str,
        missing: Collection[str] = (),
        *,
        buckets: int,
        length: int,
        ngrams: tuple[int, int] | None,
        min_count: int = 1,
    ) -> None:
        super().__init__(feature, column, missing)
        self.buckets, self.length, self.ngrams, self.min_count = buckets, length, ngrams, min_count
        self.counts = np.zeros(buckets, dtype=np.int64)
        self.longest = 0

    def update(self, columns: tuple[Any, ...], locate: Locate) -> None:
        """Add rows."""
        found = tokens_of(columns[0], self.buckets, self.ngrams, self.missing)
        self.rows += len(found.absent)
        self.absent += int(found.absent.sum())
        self.longest = max(self.longest, int((found.words[0] + found.groups[0]).max(initial=0)))
        for _, buckets in (found.words, found.groups):
            self.counts += np.bincount(buckets, minlength=self.buckets)

    def finish(self) -> dict[str, Any]:
        """Return the buckets and the length."""
        return {
            "buckets": self.buckets,
            "length": max(min(self.longest, self.length), 1),
            "ngrams": None if self.ngrams is None else list(self.ngrams),
            "met": packed(self.counts >= max(self.min_count, 1)),
        }
