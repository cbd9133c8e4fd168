"""Cells of a table's column as numbers or as text, wherever they come from: CSV, Parquet, any type of Arrow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtl_lightning.encoding.notation import PLAIN, Notation, in_zone
from mtl_lightning.encoding.plain_arrays import as_numpy, of_texts
from mtl_lightning.errors import DataError

LARGEST = 1e38  # of numbers, which a network takes as float32
_INTEGERS = 2.0**63  # of 64 bits, below
_MANY = 64  # different texts, from which Arrow looks at them faster than Python


class CellError(DataError):
    """A cell that cannot be read.

    Attributes:
        row: its row in the record batch, from 0; None if the whole column is meant.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row

    def at(self, file: str | Path, row: int) -> DataError:
        """Return the error that also says where the cell is.

        Args:
            file: the file.
            row: the batch's row 0 in the file, counted from 1 and without the header.
        """
        return DataError(f"{file}{'' if self.row is None else f', row {row + self.row}'}: {self}.")


def texts(column: Any, missing: Collection[str] = (), *, spelled: bool = True) -> tuple[NDArray[np.int64], list[str]]:
    """Read a column as text, without the blanks around it.

    Numbers without a fraction are spelled alike, ``3.0`` as ``3``, so that integers keep their spelling when a missing
    one among them turns the column into floats; bools are ``true`` and ``false``.

    Args:
        column: an Arrow array or chunked array (N,).
        missing: what stands for a missing value, beside null, nan and the empty text.
        spelled: spell numbers alike; else cells of text stay as they are, as in ``1.000``, which may be a thousand.

    Returns:
        For each row the index (N,) of its value, -1 where it is missing; and the distinct values (unsorted). A value
        that no row has is not among them, though an Arrow dictionary may hold it.
    """
    encoded = one(column)
    if pa.types.is_floating(encoded.type):
        encoded = pc.if_else(pc.is_nan(encoded), pa.nulls(1, encoded.type)[0], encoded)
    if not pa.types.is_dictionary(encoded.type):
        _check_kind(encoded.type)
        encoded = encoded.dictionary_encode()
    if (as_they_are := _as_they_are(encoded, missing, spelled)) is not None:
        return _met(*as_they_are)
    found = _spelled(encoded.dictionary)
    values: dict[str, int] = {}
    lookup = np.full(len(found) + 1, -1, dtype=np.int64)  # the last one is for null
    stripped = [value.strip() for value in encoded.dictionary.cast(pa.string()).to_pylist()] if not spelled else found
    for index, (value, stands) in enumerate(zip(found, stripped, strict=True)):
        if value and value not in missing and stands not in missing:
            lookup[index] = values.setdefault(stands, len(values))
    return _met(lookup[as_numpy(encoded.indices, len(found))], list(values))


def _as_they_are(encoded: Any, missing: Collection[str], spelled: bool) -> tuple[NDArray[np.int64], list[str]] | None:
    """Return texts of which none has to be spelled in another way, in a fraction of the time; None for others."""
    kind = encoded.dictionary
    if not _is_text(kind.type) or kind.null_count or len(kind) < _MANY:
        return None
    if spelled and pc.any(pc.match_substring(kind, ".")).as_py():
        return None
    if not pc.all(pc.equal(pc.utf8_trim_whitespace(kind), kind)).as_py():
        return None
    values: list[str] = kind.to_pylist()
    if len({*values}) < len(values):
        return None
    absent = as_numpy(pc.is_in(kind, value_set=of_texts(["", *missing]).cast(kind.type)))
    found: NDArray[np.int64] = as_numpy(encoded.indices, len(values)).astype(np.int64)
    if absent.any() or encoded.indices.null_count:
        found = np.append(np.where(absent, -1, np.arange(len(values))), -1)[found]
    return found, values


def spelled_alike(indices: NDArray[np.int64], values: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return texts as :func:`texts` spells them, of those that it left as they are."""
    alike: dict[str, int] = {}
    lookup = np.array([*(alike.setdefault(spelling(value), len(alike)) for value in values), -1], dtype=np.int64)
    return lookup[indices], list(alike)


def _met(found: NDArray[np.int64], values: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Leave out values that no row has."""
    met = np.bincount(found + 1, minlength=len(values) + 1)[1:] > 0
    if met.all():
        return found, values
    places = np.append(np.where(met, np.cumsum(met) - 1, -1), -1)
    return places[found], [value for value, there in zip(values, met.tolist(), strict=True) if there]


def numbers(column: Any, missing: Collection[str] = (), notation: Notation = PLAIN) -> NDArray[np.float64]:
    """Read a column as numbers (N,), nan where one is missing; times become seconds since 1970.

    Args:
        column: an Arrow array or chunked array (N,).
        missing: what stands for a missing value, beside null, nan and the empty text.
        notation: how texts spell numbers.

    Raises:
        CellError: for a text that is no number, and for a number that is infinite or above 1e38.
    """
    array = one(column)
    if not is_text(array):
        found = cast(array, missing, notation.zone)
        failed = np.abs(found) > LARGEST
        shown: Any = float(found[failed.argmax()]) if failed.any() else None
    else:
        fast = cast_text(array, missing) if notation.is_plain else None
        if fast is not None and not (np.abs(fast) > LARGEST).any():
            return fast
        indices, values = texts(array, missing, spelled=False)  # slower, but it knows which one fails
        found = np.array([*(notation.parse(value)[0] for value in values), np.nan])[indices]
        failed = np.abs(found) > LARGEST
        shown = values[indices[failed.argmax()]] if failed.any() else None
    if failed.any():
        raise CellError(f"expected a number, found {shown!r}", int(failed.argmax()))
    return found


def readable_numbers(
    column: Any, missing: Collection[str] = (), notation: Notation = PLAIN
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Read a column as :func:`numbers` does, but with nan where a cell is no number.

    Returns:
        The numbers (N,), and which cells (N,) are none; None where all of them are, or are missing.
    """
    try:
        return numbers(column, missing, notation), None
    except CellError:
        array = one(column)
    if is_text(array):
        indices, values = texts(array, missing, spelled=False)
        found = np.array([*(notation.parse(value)[0] for value in values), np.nan])[indices]
    else:
        try:
            found = cast(array, missing, notation.zone)
        except CellError:  # of lists and the like
            found = np.where(as_numpy(array.is_null()), np.nan, np.inf)
    failed = np.abs(found) > LARGEST
    return np.where(failed, np.nan, found), failed


def is_text(column: Any) -> bool:
    """Whether a column's cells are text, which may spell numbers."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return _is_text(kind)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def one(column: Any) -> Any:
    """Return the column as one array, views of text as text."""
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _spelled(values: Any) -> list[str]:
    _check_kind(values.type)
    found = [spelling(value) for value in values.cast(pa.string()).to_pylist()]
    if pa.types.is_floating(values.type):  # one by one, so that no value changes how another is spelled
        exact = values.cast(pa.float64()).to_pylist()
        return [text if value is None else whole(value) or text for value, text in zip(exact, found, strict=True)]
    return found


def whole(value: float) -> str | None:
    """Return how a number without a fraction is spelled, as an integer; None for any other."""
    return str(int(value)) if value.is_integer() and abs(value) < _INTEGERS else None


def _check_kind(kind: Any) -> None:
    if not (_is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise CellError(f"expected numbers, text, bools or times, found {kind}")


def spelling(value: str | None) -> str:
    """Return a text without the blanks around it, ``3.0`` as ``3``."""
    value = "" if value is None else value.strip()
    before, point, fraction = value.partition(".")
    return before if point and fraction.strip("0") == "" and before.removeprefix("-").isdecimal() else value


def cast_text(array: Any, missing: Collection[str]) -> NDArray[np.float64] | None:
    """Parse text at Arrow's speed; None if a cell is no finite number."""
    values = pc.utf8_trim_whitespace(array.dictionary if pa.types.is_dictionary(array.type) else array)
    absent = pc.is_in(values, value_set=of_texts(["", *missing]).cast(values.type))
    try:
        parsed = pc.if_else(absent, pa.nulls(1, values.type)[0], values).cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    found: NDArray[np.float64] = as_numpy(parsed)
    if np.isinf(found).any():
        return None
    if pa.types.is_dictionary(array.type):
        found = np.append(found, np.nan)  # the last one is for null
        found = found[as_numpy(array.indices, len(found) - 1)]
    return found


def cast(array: Any, missing: Collection[str] = (), zone: str = "") -> NDArray[np.float64]:
    """Turn an array (N,) that is not of text into float64, nan where it is null or spelled as in ``missing``.

    Times become seconds since 1970; those that name no zone are in ``zone``, or in UTC.

    Raises:
        CellError: for a column of lists and the like.
    """
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    try:
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            array = _in_zone(array, zone) if zone else array
            array = pc.divide(array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
        elif pa.types.is_boolean(kind):
            array = array.cast(pa.int8())
        found: NDArray[np.float64] = as_numpy(array.cast(pa.float64(), safe=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CellError(f"expected numbers, found {kind}") from error
    for spelling in missing:
        number = _number(spelling)
        if number is not None:
            found = np.where(found == number, np.nan, found)
    return found


def _in_zone(array: Any, zone: str) -> Any:
    """Return times that name no zone as those of a zone, just as texts are read."""
    if getattr(array.type, "tz", None) is not None:
        return array
    encoded = array.cast(
        pa.timestamp("us"), safe=False
    ).dictionary_encode()  # by Python's rules: Arrow knows none after 2037
    micros = [None if time is None else round(in_zone(time, zone) * 1e6) for time in encoded.dictionary.to_pylist()]
    return pa.array(micros, pa.timestamp("us", tz="UTC")).take(encoded.indices)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
