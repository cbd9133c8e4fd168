"""Lists of numbers, all of one length: a block of numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import CellError, is_text, numbers, one, texts
from mtl_lightning.encoding.kinds.base import Cells, ColumnKind, each
from mtl_lightning.encoding.kinds.elements import is_list, lengths, list_of, split, unpacked
from mtl_lightning.encoding.notation import PLAIN
from mtl_lightning.encoding.values import is_missing, number_of

__all__ = ["Vector", "vectors_of"]

_BEYOND = 0.1  # of the width of the training rows' range, as for numbers


class Vector(ColumnKind):
    """A column of vectors: each dimension standardised by itself, nan where one, or a number in it, is missing.

    Args:
        feature: see :class:`ColumnKind`.
        known: with ``separator``, which is null for JSON; and by dimension (D,) ``mean``, ``std``, ``low``, ``high``.
        missing: see there.
    """

    kind = "vector"
    block = "numeric"
    strange = "outside"
    holds_lists = True

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self.separator = known["separator"]
        self.names = tuple(f"{feature}[{place}]" for place in range(len(known["mean"])))
        self.check()
        found = [np.array(known[name], dtype=np.float64) for name in ("mean", "std", "low", "high")]
        if {one.shape for one in found} != {(self.width,)}:
            raise ValueError("means, deviations and ranges of different lengths")
        self._mean, self._std, low, high = found
        margin = _BEYOND * (high - low)
        self._low, self._high = low - margin, high + margin

    def encode(self, *columns: Any) -> Cells:
        """Encode a column of lists of numbers, or of texts that are such lists."""
        found, missing = vectors_of(columns[0], self.separator, self.width, self.spellings)
        new: NDArray[np.bool_] = np.any((found < self._low) | (found > self._high), axis=1)
        return Cells(((found - self._mean) / self._std).astype(np.float32), missing, new)

    def of_values(self, values: Sequence[Any], column: str) -> Any:
        """Return values of Python as lists of numbers."""
        return pa.array(each(values, self._vector), pa.list_(pa.float64()))

    def _vector(self, value: Any) -> list[float] | None:
        value = unpacked(value)
        if not isinstance(value, list | tuple):
            if not isinstance(value, str):
                if is_missing(value) or (isinstance(value, float) and math.isnan(value)):
                    return None
                raise CellError(f"expected {self.width} numbers, found a {type(value).__name__}", 0)
            value = list_of(value, self.separator, self.spellings)
            if value is None:
                return None
        if len(value) != self.width:
            raise CellError(f"expected {self.width} numbers, found {len(value)}", 0)
        found = [math.nan if one is None else number_of(one, self.spellings, PLAIN) for one in value]
        if math.inf in found or -math.inf in found:
            raise CellError(f"expected {self.width} numbers, found others among them", 0)
        return found

    def example(self) -> Any:
        """Return the mean."""
        return [round(mean, 3) for mean in self._mean.tolist()]

    def expects(self) -> str:
        """Say what its cells are."""
        return f"a list of {self.width} numbers"

    def words(self) -> str:
        """Say what a new cell has."""
        return "hold numbers far outside of their range in training"

    def told(self) -> str:
        """Say how many numbers there are."""
        return f"{self.width} numbers"


def vectors_of(
    column: Any, separator: str | None, size: int | None, missing: Collection[str] = ()
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read a column of lists of numbers.

    Args:
        column: an Arrow array (N,) of lists, or of texts that hold numbers and separators, or JSON.
        separator: what stands between the numbers of a text; None for JSON.
        size: how many numbers each has; None for as many as the first.
        missing: what stands for a missing value.

    Returns:
        The numbers (N, D), nan where one is missing; and where there is no vector (N,).

    Raises:
        CellError: for lists of other lengths, and for what is no number.
    """
    array = one(column)
    if pa.types.is_null(array.type):
        return np.full((len(array), size or 0), np.nan), np.ones(len(array), dtype=np.bool_)
    if is_text(array):
        cells, found = texts(array, missing, spelled=False)
        lists = split(found, separator, lambda place: int((cells == place).argmax()), missing)
        array = lists.take(pa.array(cells, mask=cells < 0))
    if not is_list(array.type):
        raise CellError(f"expected lists of numbers, found {array.type}")
    absent = array.is_null().to_numpy(zero_copy_only=False)
    counts = lengths(array)
    there = np.flatnonzero(~absent)
    wanted = size if size is not None else int(counts[there[0]]) if len(there) else 0
    if len(wrong := there[counts[there] != wanted]):
        row = int(wrong[0])
        raise CellError(
            f"expected {wanted} numbers{'' if size else ' as in the rows before'}, found {counts[row]}", row
        )
    try:
        flat = numbers(array.flatten(), missing)
    except CellError as error:
        place = None if error.row is None or not wanted else int(there[error.row // wanted])
        raise CellError(str(error), place) from error
    vectors = np.full((len(array), wanted), np.nan)
    vectors[there] = flat.reshape(len(there), wanted)
    return vectors, absent
