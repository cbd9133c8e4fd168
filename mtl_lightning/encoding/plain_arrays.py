"""Arrow's arrays from and to NumPy's and lists, without pandas, which Arrow's own ways load where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}
"""NumPy's names of what Arrow calls otherwise; `to_pandas_dtype` of Arrow 18 loads pandas."""


def as_numpy(array: Any, null: float | None = None) -> NDArray[Any]:
    """Return what ``array.to_numpy(zero_copy_only=False)`` gives of an Arrow array (N,): numbers and bools in their own
    dtype, nan for a null among floats. It may be read-only, and share the array's memory.

    Args:
        array: the array.
        null: stands for a null; integers of an array that has one become int64.
    """
    kind = array.type
    fill = np.nan if null is None and pa.types.is_floating(kind) else null
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not plain or (array.null_count and fill is None):
        given: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return given
    if pa.types.is_boolean(kind):
        return as_numpy(array.cast(pa.uint8()), fill).astype(np.bool_, copy=False)
    dtype = np.dtype(_FLOATS.get(str(kind), str(kind)))
    if not len(array):
        return np.empty(0, dtype)
    found = np.frombuffer(array.buffers()[1], dtype, count=len(array), offset=array.offset * dtype.itemsize)
    if not array.null_count:
        return found
    wide = found.astype(np.int64) if pa.types.is_integer(kind) else found
    return np.where(as_numpy(array.is_null()), np.asarray(fill, wide.dtype), wide)


def of_rows(rows: NDArray[np.int64]) -> Any:
    """Return places of rows (M,) as an Arrow array, which shares their memory."""
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def of_texts(texts: Sequence[str]) -> Any:
    """Return texts as an Arrow array of strings."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
