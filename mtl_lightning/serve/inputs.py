"""Inputs of rows that are no table's: lists of numbers as arrays of the shapes and dtypes that the network takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.errors import DataError
from mtl_lightning.layout import dtype_of, tensors_of_table

__all__ = ["Tensors", "array_of", "arrays_of", "tensors_of"]

Tensors: TypeAlias = Mapping[str, tuple[Sequence["int | None"], str]]
"""By name the shape, None where a size is free, and the dtype of a row's inputs; of a single one by no name."""


def tensors_of(spec: Mapping[str, Any] | None) -> Tensors:
    """Return what a row's inputs are, by an input spec as plain data; nothing where it is not known."""
    if spec is None:
        return {}
    if "tensor" in spec:
        return {"": (spec["tensor"]["shape"], spec["tensor"]["dtype"])}
    if "table" in spec:
        return tensors_of_table(spec["table"])
    return {name: (one["shape"], one["dtype"]) for name, one in spec["tensors"].items()}


def array_of(given: Any, shape: Sequence[int | None], dtype: str) -> NDArray[Any]:
    """Return an input of one row as an array.

    Args:
        given: numbers, in lists within lists; of bools where the dtype is bool.
        shape: that they must have, None where a size is free.
        dtype: that they are cast to, if they fit into it; numbers without a fraction go for integers.

    Raises:
        DataError: for another shape, and for a cell that does not fit: null, a text, nan, a number that is too large.
    """
    found = dtype_of(dtype)
    words = f"expected {'bools' if found.kind == 'b' else 'numbers'} of the shape {_shape(shape)}"
    cells, sizes = [given], []
    for _ in shape:
        lengths = {len(part) if isinstance(part, list) else -1 for part in cells}
        if len(lengths) > 1 or -1 in lengths:
            raise DataError(f"{words}, found {_said(given)}")
        sizes.append(lengths.pop() if lengths else 0)
        cells = [*chain.from_iterable(cells)]
    if any(want not in (None, size) for want, size in zip(shape, sizes, strict=True)):
        raise DataError(f"{words}, found {_shape(sizes)}")
    array = _cast(cells, found)
    if array is None:
        place = next(place for place, cell in enumerate(cells) if not _fits(cell, found))
        where = f" at {[int(index) for index in np.unravel_index(place, sizes)]}" if sizes else ""
        raise DataError(f"{words} that {dtype} can hold, found {_said(cells[place])}{where}")
    return array.reshape(sizes)


def arrays_of(rows: Sequence[Any], tensors: Tensors) -> Any:
    """Return the inputs of rows (N) as a predictor takes them: an array (N, *), or several by name.

    Raises:
        DataError: for rows that do not fit, or differ in a size that is free.
    """
    if not tensors:
        return {name: _stacked([_unknown(row[name]) for row in rows]) for name in rows[0]}
    arrays = {
        name: _stacked([array_of(row[name] if name else row, shape, dtype) for row in rows])
        for name, (shape, dtype) in tensors.items()
    }
    return arrays.get("", arrays)


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len(shapes := {array.shape for array in arrays}) > 1:
        raise DataError(
            f"Expected rows of the same sizes in one request, found {sorted(shapes)}. Send them one by one."
        )
    return np.stack(arrays)


def _unknown(given: Any) -> NDArray[Any]:
    try:
        found = np.asarray(given)
    except ValueError as error:
        raise DataError(f"Expected lists of the same lengths, found {_said(given)}.") from error
    return found.astype(np.float32) if found.dtype == np.float64 else found


def _cast(cells: list[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return the cells as an array, None if one does not fit."""
    if dtype.kind == "f" and {*map(type, cells)} <= {int, float}:  # the usual case, in a fraction of the time
        try:
            wide = np.array(cells, dtype=np.float64)
        except OverflowError:
            return None
        return wide.astype(dtype) if (np.abs(wide) <= float(np.finfo(dtype).max)).all() else None
    return np.array(cells, dtype=dtype) if all(_fits(cell, dtype) for cell in cells) else None


def _fits(cell: Any, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "b":
        return type(cell) is bool
    if type(cell) not in (int, float):
        return False
    if dtype.kind in "iu":
        known = np.iinfo(dtype)
        whole = isinstance(cell, int) or (math.isfinite(cell) and cell.is_integer())
        return whole and int(known.min) <= cell <= int(known.max)
    return bool(abs(cell) <= float(np.finfo(dtype).max))


def _said(given: Any) -> str:
    return f"{json.dumps(given):.60}"


def _shape(shape: Sequence[int | None]) -> str:
    return f"({', '.join('*' if size is None else str(size) for size in shape)})"
