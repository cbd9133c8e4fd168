"""Anything that is a table as rows of Python or as a table of Arrow; pandas, polars and others by what they offer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.interchange as pi

from mtl_lightning.encoding.reader import As, TableFiles
from mtl_lightning.errors import ConfigurationError, DataError

__all__ = ["Rows", "pieces_of"]

Rows: TypeAlias = Any
"""A list of dicts, or a table of Arrow."""


def pieces_of(
    given: Any,
    columns: Mapping[str, As],
    text: Mapping[str, Any],
    missing: Sequence[str] = (),
    lists: Collection[str] = (),
) -> Iterator[Rows]:
    """Yield what is given, a piece at a time, as lists of dicts or tables of Arrow.

    Args:
        given: a list of dicts, one dict of values, a dict of columns, a table or record batch of Arrow, a data frame,
            or the path, or paths, of files.
        columns: those that are wanted, each with how it is best read from a text file. Others need not be given on.
        text: how text files are read: ``header``, ``delimiter``, ``encoding``.
        missing: what stands for a missing value in files.
        lists: columns of lists: a dict in which they alone have a length is one row.

    Raises:
        ConfigurationError: for what is no table.
        DataError: for columns of different lengths; and as of :class:`~mtl_lightning.encoding.TableFiles`.
    """
    if isinstance(given, list | tuple) and (not given or isinstance(given[0], Mapping)):
        yield _rows(given)
    elif isinstance(given, str | Path) or (isinstance(given, list | tuple) and isinstance(given[0], str | Path)):
        yield from _files(given, columns, text, missing)
    elif isinstance(given, Mapping):
        yield _columns(given, columns, lists)
    else:
        yield _table(given, columns)


def _rows(given: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    for place, row in enumerate(given):
        if type(row) is not dict and not isinstance(row, Mapping):  # the first question is the faster one
            raise DataError(f"Row {place + 1}: expected a dict of values by column, found {type(row).__name__}.")
    return given


def _files(given: Any, columns: Mapping[str, As], text: Mapping[str, Any], missing: Sequence[str]) -> Iterator[Rows]:
    files = TableFiles(given, **text, missing=missing)
    there = [{*files.names(file)} for file in files.files]
    wanted = {name: kind for name, kind in columns.items() if all(name in names for names in there)}
    for piece in files.pieces(wanted):
        yield piece.rows.select([*wanted])


def _columns(given: Mapping[str, Any], columns: Mapping[str, As], lists: Collection[str] = ()) -> Rows:
    """Return a dict of columns, or of the values of one row, as rows; as a table if all of them are arrays."""
    there = {name: given[name] for name in columns if name in given} or dict(given)
    if not any(_is_column(value) for value in there.values()):
        return [given]
    lengths = {name: len(value) if _is_column(value) else None for name, value in there.items()}
    if None in lengths.values() and {name for name, rows in lengths.items() if rows is not None} <= {*lists}:
        return [given]
    if len({*lengths.values()}) != 1:
        raise DataError(f"Expected columns with the same number of rows, found {lengths}.")
    try:
        if not any(isinstance(value, list | tuple) for value in there.values()):
            return pa.table({name: _array(value) for name, value in there.items()})
    except (pa.ArrowException, TypeError, ValueError):  # objects of several kinds
        pass
    names = list(there)
    return [dict(zip(names, values, strict=True)) for values in zip(*there.values(), strict=True)]


def _is_column(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping)


def _is_of_pandas(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas"


def _array(column: Any) -> Any:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column
    if _is_of_pandas(column):
        return pa.Array.from_pandas(column)
    return pa.array(column if hasattr(column, "__arrow_c_array__") else np.asarray(column))


def _table(given: Any, columns: Mapping[str, As]) -> Rows:
    if isinstance(given, pa.Table | pa.RecordBatch):
        _refuse_twice(given.schema.names, columns)
        return given
    if _is_of_pandas(given) and hasattr(given, "columns"):
        _refuse_twice([*given.columns], columns)
        return _columns({name: given[name] for name in given.columns if name in columns} or _empty(given), columns)
    try:
        if hasattr(given, "select") and hasattr(given, "columns"):  # polars, which may hold what Arrow does not know
            given = given.select([name for name in given.columns if name in columns] or given.columns[:1])
        if hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__"):
            return pa.table(given)
        if hasattr(given, "__dataframe__"):
            return pi.from_dataframe(given)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"Expected a table that Arrow can read, found {type(given).__name__}: {error}.") from error
    raise ConfigurationError(
        "Expected a list of dicts, a dict of columns, a table of Arrow, a data frame of pandas or polars, or the path "
        f"of a file, found {type(given).__name__}."
    )


def _refuse_twice(names: Sequence[Any], columns: Mapping[str, As]) -> None:
    if twice := [name for name in columns if names.count(name) > 1]:
        raise DataError(f"Expected columns of different names, found {twice[0]!r} more than once.")


def _empty(frame: Any) -> Mapping[str, Any]:
    """Return a column, so that the number of rows is known, of a frame that has none of those that are wanted."""
    return {"": range(len(frame))}
