"""Ids of many levels: a code by the hash of the text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import texts
from mtl_lightning.encoding.kinds.base import Cells, ColumnKind
from mtl_lightning.encoding.kinds.hashing import bitmap_of, buckets_of

__all__ = ["Hashed"]

_TRUTH = dict.fromkeys(("True", "TRUE"), "true") | dict.fromkeys(("False", "FALSE"), "false")


class Hashed(ColumnKind):
    """A column of ids: code 1 + bucket of the text; 0 where it is missing, or training did not meet its bucket.

    Two ids may have one bucket, which then have one embedding: of n ids in b buckets a share of about n / b shares its
    bucket with another.

    Args:
        feature: see :class:`ColumnKind`.
        known: with ``buckets``, their number, and ``met``, those of training
            (:func:`~mtl_lightning.encoding.kinds.hashing.packed`).
        missing: see there.
    """

    kind = "hashed"
    block = "categorical"

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self.buckets = int(known["buckets"])
        self.codes = {feature: self.buckets + 1}
        self.check()
        self._code = np.where(bitmap_of(known["met"], self.buckets), np.arange(1, self.buckets + 1), 0)

    def encode(self, *columns: Any) -> Cells:
        """Encode a column of texts, numbers or bools."""
        indices, values = texts(columns[0], self.spellings)
        codes = np.append(self._code[hashed(values, self.buckets)], 0)[indices]
        missing = indices < 0
        new = (codes == 0) & ~missing
        return Cells(codes[:, None], missing, new, examples=lambda rows: [values[index] for index in indices[rows]])

    def told(self) -> str:
        """Say in how many buckets."""
        return f"hashed into {self.buckets} buckets"


def hashed(values: Sequence[str], buckets: int) -> NDArray[np.int64]:
    """Return the bucket of each text (N,), those of true and false in small letters, as a column of bools has them."""
    if not _TRUTH.keys().isdisjoint(values):
        values = [_TRUTH.get(value, value) for value in values]
    return buckets_of(values, buckets)
