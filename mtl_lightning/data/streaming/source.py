"""Parquet files as one long table that is read a slice of a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mtl_lightning.encoding.bounds import refuse_absurd_sizes, refuse_too_many_columns
from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.reader import stripped
from mtl_lightning.names import did_you_mean, listed
from mtl_lightning.types import ConfigurationError, DataError

_READ_AHEAD = 1 << 20  # bytes of each column's chunk that are read at a time
_BUFFER_BYTES = 1 << 24
_TEXT = pa.dictionary(pa.int32(), pa.string())
_VALUE_BYTES = 8  # of an encoded value: codes and class labels are int64


class Slice(NamedTuple):
    """Rows of one row group that are read together: all of it, unless it is large."""

    file: int
    group: int  # within the file
    start: int  # within the row group
    rows: int
    first: int  # where its first row stands in the whole table


class ParquetSource:
    """Some columns of Parquet files, one below the other, read slice by slice.

    A row group of more than ``buffer_rows`` rows is cut into several slices. Parquet has no way to the middle of a row
    group but through what comes before it; the place that was reached last is therefore kept, and slices that are read
    in order cost one pass through their row group. Memory is bounded by a slice either way. Columns of text come as
    dictionaries.

    Args:
        paths: the files, in the order of their rows.
        columns: names of the columns to read; by default all that the first file has.
        buffer_rows: rows of the largest slice, and of a block that is shuffled. The more row groups fit into it, the
            better rows are mixed; memory is needed for about three times as many encoded rows per worker. By default
            as many as take 16 MiB with all columns.

    Attributes:
        names: the columns of the first file, without the blanks around them.
        columns: those that are read.
        slices: all of them, in the order of the files.

    Raises:
        DataError: for a file that is no Parquet file or ends too early, that lacks a column, or has one of another type
            than the first file.
        ConfigurationError: for no file at all.
    """

    def __init__(
        self, paths: Sequence[str | Path], *, columns: Sequence[str] | None = None, buffer_rows: int | None = None
    ) -> None:
        if not paths:
            raise ConfigurationError("Expected at least one Parquet file to stream, found none.")
        if buffer_rows is not None and buffer_rows < 1:
            raise ConfigurationError(f"Expected a buffer of at least 1 row, found buffer_rows={buffer_rows}.")
        self.paths = [Path(path) for path in paths]
        self._schemas: list[Any] = []
        self._raw: list[dict[str, str]] = []  # the names as they stand in the files
        sizes: list[list[int]] = []
        for index in range(len(self.paths)):
            with self._open(index) as file:
                self._schemas.append(_stripped(file.schema_arrow, self.paths[index]))
                self._raw.append(dict(zip(self._schemas[-1].names, file.schema_arrow.names, strict=True)))
                refuse_absurd_sizes(file.metadata, self.paths[index], columns=1)
                sizes.append([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        self.names: list[str] = self._schemas[0].names
        refuse_too_many_columns(self.names, self.paths[0])
        self.buffer_rows = buffer_rows or max(1024, _BUFFER_BYTES // (_VALUE_BYTES * max(len(self.names), 1)))
        self.slices = list(_slices(sizes, self.buffer_rows))
        self._choose(self.names if columns is None else columns)

    def only(self, columns: Sequence[str]) -> ParquetSource:
        """Return the same slices with other columns."""
        other = copy(self)
        other._choose(columns)
        return other

    def _choose(self, columns: Sequence[str]) -> None:
        for path, schema in zip(self.paths, self._schemas, strict=True):
            for name in columns:
                self._check(path, schema, name)
        self.columns = list(columns)
        kinds = {name: _value_type(self._schemas[0].field(name).type) for name in columns}
        self._text = [name for name, kind in kinds.items() if kind == pa.string()]
        self._schema = pa.schema([(name, _TEXT if kind == pa.string() else kind) for name, kind in kinds.items()])
        self._cursor: _Cursor | None = None

    def _check(self, path: Path, schema: Any, name: str) -> None:
        """Refuse a file in which a column is not what it is in the first."""
        if name not in schema.names:
            raise DataError(
                f"{path}: expected a column {name!r}, found {listed(schema.names)}.{did_you_mean(name, schema.names)}"
            )
        found, first = (_value_type(other.field(name).type) for other in (schema, self._schemas[0]))
        if found != first:
            raise DataError(
                f"{path}: expected the column {name!r} of type {first}, as in {self.paths[0]}, found type {found}. "
                "Write all files with one schema."
            )

    @property
    def rows(self) -> int:
        """Number of rows of all files."""
        return self.slices[-1].first + self.slices[-1].rows if self.slices else 0

    def read(self, part: Slice) -> Any:
        """Return the rows of a slice as a ``pyarrow.Table``.

        Raises:
            DataError: if they cannot be read; names the file and the rows.
        """
        cursor, names = self._cursor, self._raw[part.file]
        raw = [names[name] for name in self.columns]
        try:
            if cursor is None or not cursor.can_reach(part):
                text = [names[name] for name in self._text]
                file = cursor.file if cursor and cursor.index == part.file else self._open(part.file, text)
                cursor = self._cursor = _Cursor(part.file, file, part.group, raw, self.buffer_rows)
            return cursor.read(part).select(raw).rename_columns(self.columns).cast(self._schema)
        except (OSError, pa.ArrowException) as error:
            self._cursor = None
            raise DataError(
                f"{self.paths[part.file]}: expected {part.rows} rows from row {part.start} of row group {part.group}, "
                f"found that they cannot be read: {error}. Write or fetch the file again."
            ) from error

    def name(self, part: Slice) -> str:
        """Say where a slice is, for messages."""
        return f"{self.paths[part.file]}, row group {part.group}, rows {part.start}-{part.start + part.rows - 1}"

    def row_name(self, part: Slice, row: int) -> str:
        """Say where a row of a slice is: the file and its row, counted from 1."""
        before = next(other.first for other in self.slices if other.file == part.file)
        return f"{self.paths[part.file]}, row {part.first - before + row + 1}"

    @contextmanager
    def located(self, rows: Sequence[tuple[Slice, Any]]) -> Iterator[None]:
        """Add file and row to an error about a cell.

        Args:
            rows: the slices that were read, and which of their rows (N,) the cells are of.
        """
        try:
            yield
        except CellError as error:
            where = self.name(rows[0][0]) if error.row is None else self.locate(rows, error.row)
            raise DataError(f"{where}: {error}.") from error

    def locate(self, rows: Sequence[tuple[Slice, Any]], row: int) -> str:
        """Say where a row is among rows (N,) of several slices."""
        for part, indices in rows:
            if row < len(indices):
                return self.row_name(part, int(indices[row]))
            row -= len(indices)
        return self.name(rows[0][0])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file; a worker process opens its own."""
        return self.__dict__ | {"_cursor": None}

    def _open(self, index: int, text: Sequence[str] = ()) -> Any:
        path = self.paths[index]
        try:
            return pq.ParquetFile(path, read_dictionary=text, buffer_size=_READ_AHEAD, pre_buffer=False)
        except FileNotFoundError as error:
            raise DataError(f"{path}: expected a Parquet file, found no file.") from error
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: expected a Parquet file, found one that cannot be read as such, perhaps because it was not "
                f"written to its end: {error}. Write or fetch it again."
            ) from error


def _slices(sizes: Sequence[Sequence[int]], most: int) -> Iterator[Slice]:
    """Cut the row groups of each file, by their numbers of rows."""
    first = 0
    for file, groups in enumerate(sizes):
        for group, size in enumerate(groups):
            for start in range(0, size, most):
                rows = min(most, size - start)
                yield Slice(file, group, start, rows, first)
                first += rows


def _stripped(schema: Any, path: Path) -> Any:
    """Return a file's schema with names that have no blanks around them, as those of a table in memory."""
    names = stripped(schema.names, path)
    return pa.schema([schema.field(place).with_name(name) for place, name in enumerate(names)])


def _value_type(kind: Any) -> Any:
    """Return the type of a column's values, of the several for text always the same."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


class _Cursor:
    """A place in one row group, from which one can only go on."""

    def __init__(self, index: int, file: Any, group: int, columns: Sequence[str], batch_rows: int) -> None:
        self.index, self.file, self.group = index, file, group
        self._batches = file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False)
        self._row = 0  # of the row group, where `_batch` begins
        self._batch: Any = None

    def can_reach(self, part: Slice) -> bool:
        return (self.index, self.group) == (part.file, part.group) and self._row <= part.start

    def read(self, part: Slice) -> Any:
        while self._row < part.start:
            self._next(part.start - self._row)
        taken, end = [], part.start + part.rows
        while self._row < end:
            taken.append(self._next(end - self._row))
        return pa.Table.from_batches(taken)

    def _next(self, rows: int) -> Any:
        """Return the next rows: at most ``rows``, and as many as come without another read."""
        batch = self._batch if self._batch is not None else next(self._batches, None)
        if batch is None:
            raise pa.ArrowInvalid(f"it ends after {self._row} rows")
        self._batch = batch.slice(rows) if batch.num_rows > rows else None
        batch = batch.slice(0, rows)
        self._row += batch.num_rows
        return batch
