"""The elements of lists, however a column holds them: Arrow's lists, texts with separators, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import CellError, is_text, one, texts
from mtl_lightning.encoding.values import text_of

__all__ = ["Elements", "elements_of", "is_list", "json_list", "laid_out", "lengths", "list_of", "split", "unpacked"]


class Elements(NamedTuple):
    """The elements of N lists, M altogether, those that are missing left out.

    Attributes:
        absent: (N,), where there is no list; an empty one is there.
        counts: (N,), how many elements each has.
        indices: (M,), of the elements among the values, those of one list after those of another.
        values: the different elements.
    """

    absent: NDArray[np.bool_]
    counts: NDArray[np.int64]
    indices: NDArray[np.int64]
    values: list[str]


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is one of lists."""
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def elements_of(column: Any, separator: str | None, missing: Collection[str] = ()) -> Elements:
    """Read a column of lists.

    Args:
        column: an Arrow array (N,) of lists; of texts, which hold elements and separators, or JSON; or of single
            elements.
        separator: what stands between the elements of a text; None for JSON.
        missing: what stands for a missing value, be it a cell or an element.

    Raises:
        CellError: for a text that is no list in JSON, and for lists in lists and the like.
    """
    array = one(column)
    if is_list(array.type):
        absent = array.is_null().to_numpy(zero_copy_only=False)
        counts = lengths(array)
        indices, values = texts(array.flatten(), missing)
        return _present(absent, counts, indices, values)
    if not is_text(array):
        indices, values = texts(array, missing)
        there = indices >= 0
        return Elements(~there, there.astype(np.int64), indices[there], values)
    cells, lists = texts(array, missing, spelled=False)
    parts = split(lists, separator, lambda place: int((cells == place).argmax()), missing)
    indices, values = texts(parts.flatten(), missing)
    each = _present(np.zeros(len(lists), dtype=np.bool_), lengths(parts), indices, values)
    return _repeated(each, cells)


def lengths(array: Any) -> NDArray[np.int64]:
    """Return how many elements each list of an Arrow array (N,) has, 0 where there is none."""
    found: NDArray[np.int64] = (
        pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    return found


def split(lists: Sequence[str], separator: str | None, row: Callable[[int], int], missing: Collection[str]) -> Any:
    """Return the elements of texts, as an Arrow array of lists."""
    if separator is not None:
        return pc.split_pattern(pa.array(lists, pa.string()), separator)
    found = []
    for place, text in enumerate(lists):
        try:
            found.append(json_list(text, missing))
        except CellError as error:  # noqa: PERF203  # the place of the one that fails
            raise CellError(str(error), row(place)) from error
    return pa.array(found, pa.list_(pa.string()))


def _present(
    absent: NDArray[np.bool_], counts: NDArray[np.int64], indices: NDArray[np.int64], values: list[str]
) -> Elements:
    """Leave out elements that are missing."""
    there = indices >= 0
    if not there.all():
        rows = np.repeat(np.arange(len(counts)), counts)
        counts, indices = np.bincount(rows[there], minlength=len(counts)), indices[there]
    return Elements(absent, counts, indices, values)


def _repeated(each: Elements, cells: NDArray[np.int64]) -> Elements:
    """Return the elements of cells (N,), given by their index among different lists, -1 where one is missing."""
    starts = np.append(np.cumsum(each.counts) - each.counts, 0)
    counts = np.append(each.counts, 0)[cells]
    before = np.cumsum(counts) - counts
    places = np.repeat(starts[cells] - before, counts) + np.arange(counts.sum())
    return Elements(cells < 0, counts, each.indices[places], each.values)


def laid_out(codes: NDArray[Any], counts: NDArray[np.int64], length: int) -> NDArray[Any]:
    """Return the codes (M,) of lists with so many elements (N,) as rows (N, length), padded with 0; of a longer list
    the first are kept.
    """
    found = np.zeros((len(counts), length), dtype=codes.dtype)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = places < length
    found[rows[kept], places[kept]] = codes[kept]
    return found


def json_list(text: str, missing: Collection[str] = ()) -> list[str | None]:
    """Return the elements of a list in JSON as texts, None where one is missing.

    Raises:
        CellError: for anything else, and for lists in lists.
    """
    try:
        found = json.loads(text, parse_constant=_refuse) if text.startswith("[") else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise CellError(f'expected a list in JSON such as \'["a", "b"]\', found {text!r:.60}', 0)
    return [_text(element, missing) for element in found]


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _text(element: Any, missing: Collection[str]) -> str | None:
    if isinstance(element, list | dict | tuple):
        raise CellError(f"expected a list of texts or numbers, found in it a {type(element).__name__}", 0)
    return text_of(element, missing)


def unpacked(value: Any) -> Any:
    """Return an array of NumPy as lists, anything else as it is."""
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim else value


def list_of(value: Any, separator: str | None, missing: Collection[str]) -> list[str | None] | None:
    """Return a value of Python as a list of texts, just as a column that held it would be read; None if it is missing.

    Raises:
        CellError: for what is neither a list nor an element.
    """
    value = unpacked(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_text(element, missing) for element in value]
    if not isinstance(value, str):
        found = _text(value, missing)
        return None if found is None else [found]
    text = value.strip()
    if not text or text in missing:
        return None
    if separator is None:
        return json_list(text, missing)
    return [text_of(part, missing) for part in text.split(separator)]
