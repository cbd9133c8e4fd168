"""A number as the category of the share of the training rows that it is in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mtl_lightning.encoding.kinds.base import Cells
from mtl_lightning.encoding.kinds.of_number import OfNumber

__all__ = ["Bucket"]


class Bucket(OfNumber):
    """Code 1 + the number of bounds that are not above the number; 0 where it is missing.

    Args:
        feature: see :class:`OfNumber`.
        known: with ``bounds``, rising.
        missing: see there.
    """

    kind = "bucket"
    block = "categorical"

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self._bounds = np.array(known["bounds"], dtype=np.float64)
        self.codes = {feature: len(self._bounds) + 2}
        self.check()

    def encode(self, *columns: Any) -> Cells:
        """Encode a column of numbers."""
        found = self._numbers(columns[0], self.columns[0])
        codes = np.where(np.isnan(found), 0, np.searchsorted(self._bounds, found, side="right") + 1)
        return Cells(codes[:, None], np.zeros(len(found), dtype=np.bool_))

    def told(self) -> str:
        """Say into how many."""
        return f"{len(self._bounds) + 1} quantiles of {self.columns[0]}"
