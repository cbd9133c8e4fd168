"""What of a column can be read, where some cells cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mtl_lightning.encoding.cells import CellError, one
from mtl_lightning.encoding.kinds.base import Cells, ColumnKind

__all__ = ["readable_cells", "readable_values"]


def readable_values(kind: ColumnKind, values: Sequence[Any], column: str) -> tuple[Any, list[int]]:
    """Return values of Python (N,) as an Arrow array, null where one is none of this kind; and those rows."""
    try:
        return kind.of_values(values, column), []
    except CellError:
        pass
    kept, failed = list(values), []
    for row, value in enumerate(values):
        try:
            kind.of_values([value], column)
        except CellError:  # noqa: PERF203  # some of them fail
            kept[row] = None
            failed.append(row)
    return kind.of_values(kept, column), failed


def readable_cells(kind: ColumnKind, columns: Sequence[Any]) -> tuple[Cells, list[int]]:
    """Encode columns (N,), a row that cannot be read as a missing one; and return those rows."""
    arrays = [one(column) for column in columns]
    try:
        return kind.encode(*arrays), []
    except CellError:
        failed = _failing(kind, arrays, 0, len(arrays[0]))
    places = np.arange(len(arrays[0]))
    unread = np.zeros(len(places), dtype=np.bool_)
    unread[failed] = True
    kept = pa.array(places, mask=unread)
    try:
        return kind.encode(*(array.take(kept) for array in arrays)), failed
    except CellError:  # for the type
        return kind.encode(*(pa.nulls(len(places)) for _ in arrays)), failed


def _failing(kind: ColumnKind, arrays: Sequence[Any], start: int, stop: int) -> list[int]:
    """Return the rows from ``start`` to ``stop`` that cannot be encoded, by halving."""
    try:
        kind.encode(*(array.slice(start, stop - start) for array in arrays))
    except CellError as error:
        if stop - start > 1 and error.row is not None:
            middle = (start + stop) // 2
            return _failing(kind, arrays, start, middle) + _failing(kind, arrays, middle, stop)
        filled = ~arrays[0].slice(start, stop - start).is_null().to_numpy(zero_copy_only=False)
        return [start + row for row in np.flatnonzero(filled).tolist()]
    return []
