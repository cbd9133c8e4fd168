"""What is made of a column of numbers, beside the number itself, which is a feature of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import LARGEST, readable_numbers
from mtl_lightning.encoding.kinds.base import ColumnKind
from mtl_lightning.encoding.notation import Notation
from mtl_lightning.encoding.values import number_of

__all__ = ["OfNumber"]


class OfNumber(ColumnKind):
    """Reads columns of numbers or dates; a cell that is none counts as missing here: the number itself tells of it.

    Args:
        feature: see :class:`ColumnKind`.
        known: with ``reads``, how the cells of each column are spelled that are not plain.
        missing: see there.
    """

    reads = "text"

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self._notations = {name: Notation.from_dict(read) for name, read in known.get("reads", {}).items()}

    def _numbers(self, column: Any, name: str) -> NDArray[np.float64]:
        """Return a column (N,) as numbers, dates as seconds since 1970; nan where there is none."""
        return readable_numbers(column, self.spellings, self._notations.get(name, Notation()))[0]

    def of_values(self, values: Sequence[Any], column: str) -> Any:
        """Return values of Python as numbers, null where one is none."""
        notation = self._notations.get(column, Notation())
        found = np.array([number_of(value, self.spellings, notation) for value in values], dtype=np.float64)
        return pa.array(found, mask=~(np.abs(found) <= LARGEST))
