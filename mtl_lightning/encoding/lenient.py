"""Encodes what is there: rows of which a column is not there, or a cell cannot be read, are told of, not refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import LARGEST, CellError, readable_numbers, texts
from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.encoder import RowEncoder
from mtl_lightning.encoding.kinds import Cells, ColumnKind
from mtl_lightning.encoding.kinds.readable import readable_cells, readable_values
from mtl_lightning.encoding.moments import logarithmic
from mtl_lightning.encoding.notation import PLAIN
from mtl_lightning.encoding.values import number_of, text_of

_SHOWN = 3  # cells of a column that are quoted
_NUMBERS = frozenset((float, int, bool, type(None)))  # types that NumPy reads as we do


class Faults:
    """Cells that are not there, and cells that are not what their column needs.

    Attributes:
        absent: the number of rows without a column, by column.
        unreadable: the number of cells that cannot be read, by column.
        shown: of each such column the first cells, each with its row.
    """

    def __init__(self) -> None:
        self.absent: dict[str, int] = {}
        self.unreadable: dict[str, int] = {}
        self.shown: dict[str, list[tuple[int, str]]] = {}

    def __bool__(self) -> bool:
        return bool(self.absent or self.unreadable)

    def lacks(self, name: str, rows: int) -> None:
        """Note in how many rows there is no such column, which may be asked for as numbers and as texts."""
        if rows:
            self.absent[name] = rows

    def add(self, other: Faults, start: int) -> None:
        """Add the faults of rows that come after so many others."""
        for name, rows in other.absent.items():
            self.absent[name] = self.absent.get(name, 0) + rows
        for name, cells in other.unreadable.items():
            self.unreadable[name] = self.unreadable.get(name, 0) + cells
            shown = self.shown.setdefault(name, [])
            shown += [(start + row, cell) for row, cell in other.shown[name][: _SHOWN - len(shown)]]

    def cannot_read(self, name: str, rows: Sequence[int], cell: Callable[[int], Any]) -> None:
        """Count cells that cannot be read, by their rows."""
        self.unreadable[name] = self.unreadable.get(name, 0) + len(rows)
        shown = self.shown.setdefault(name, [])
        shown += [(row, _quoted(cell(row))) for row in rows[: _SHOWN - len(shown)]]


class LenientEncoder(RowEncoder):
    """Encodes rows as :class:`RowEncoder` does, but for a cell that is not there, or cannot be read, as a missing one;
    rows may be values of Python, which are encoded as a file that holds them would be.

    Safe to use from several threads.

    Args:
        schema: as of :meth:`~mtl_lightning.data.TableFitter.finish`.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        super().__init__(schema)
        known = self.schema["numeric"]
        self._names = [*known]
        self._means = np.array([one["mean"] for one in known.values()], dtype=np.float64)
        self._stds = np.array([one["std"] for one in known.values()], dtype=np.float64)
        self._logs = [place for place, one in enumerate(known.values()) if one["log1p"]]
        self._plan = [(name, codes.get) for name, codes in self._codes.items()]
        spelled = [_float(text) for text in self._spellings]
        self._gaps = [number for number in spelled if number is not None and number == number]
        self._counts = DriftCounts(self.schema)
        self._low, self._high = self._counts.bounds(-LARGEST, LARGEST)
        self._usual = list(zip(self._names, self._low.tolist(), self._high.tolist(), strict=True))

    def counts(self) -> DriftCounts:
        """Return what counts the cells that training never saw, at 0."""
        return self._counts.afresh()

    # ----------------------------------------------------------------------------------------------- Arrow's columns
    def table(self, table: Any, drift: DriftCounts, faults: Faults) -> dict[str, NDArray[Any]]:
        """Encode the features of an Arrow record batch or table (N rows); see :meth:`RowEncoder.inputs`."""
        names = {*table.schema.names}

        def of_numbers(name: str) -> NDArray[np.float64]:
            if name not in names:
                faults.lacks(name, table.num_rows)
                return np.full(table.num_rows, np.nan)
            column = table.column(name)
            found, failed = readable_numbers(column, self._spellings, self._notations.get(name, PLAIN))
            if failed is not None:
                faults.cannot_read(name, np.flatnonzero(failed).tolist(), lambda row: column[row].as_py())
            return found

        def of_texts(name: str) -> tuple[NDArray[np.int64], list[str]]:
            if name not in names:
                faults.lacks(name, table.num_rows)
                return np.full(table.num_rows, -1), []
            column = table.column(name)
            try:
                return self._lowered(name, *texts(column, self._spellings))
            except CellError:
                filled = np.flatnonzero(~column.is_null().to_numpy(zero_copy_only=False)).tolist()
                faults.cannot_read(name, filled, lambda row: column[row].as_py())
                return np.full(table.num_rows, -1), []

        def of_kinds(kind: ColumnKind) -> Cells:
            for name in kind.columns:
                if name not in names:
                    faults.lacks(name, table.num_rows)
            columns = [table.column(n) if n in names else pa.nulls(table.num_rows) for n in kind.columns]
            return self._readable(kind, columns, faults, lambda row: columns[0][row].as_py())

        return self._encoded(table.num_rows, of_numbers, of_texts, of_kinds, drift)

    def texts(self, rows: Any, name: str) -> list[str | None]:
        """Return the cells of a column as texts, None where one is missing; a column that is not there is all missing.

        Args:
            rows: an Arrow table, or rows that are dicts.
            name: the column.
        """
        if isinstance(rows, Sequence):
            return [self._readable_text(row.get(name)) for row in rows]
        if name not in rows.schema.names:
            return [None] * rows.num_rows
        try:
            indices, values = texts(rows.column(name), self._spellings)
        except CellError:  # lists and the like
            return [self._readable_text(value) for value in rows.column(name).to_pylist()]
        return [values[index] if index >= 0 else None for index in indices.tolist()]

    def _readable_text(self, value: Any) -> str | None:
        try:
            return text_of(value, self._spellings)
        except CellError:
            return None

    # ----------------------------------------------------------------------------------------------- Python's values
    def rows(self, rows: Sequence[Mapping[str, Any]], drift: DriftCounts, faults: Faults) -> dict[str, NDArray[Any]]:
        """Encode the features of rows (N) that are dicts; the same as :meth:`table` would give of such a table."""
        drift.begin(len(rows))
        found: dict[str, NDArray[Any]] = {
            "numeric": self._numeric(rows, drift, faults),
            "categorical": self._categorical(rows, drift, faults),
        }

        def of_kinds(kind: ColumnKind) -> Cells:
            for name in kind.columns:
                self._look_for(name, rows, faults)
            columns = []
            for name in kind.columns:
                array, failed = readable_values(kind, [row.get(name) for row in rows], name)
                columns.append(array)
                _cannot_read(name, failed, lambda row, name=name: rows[row].get(name), faults)  # type: ignore[misc]  # a default
            return self._readable(kind, columns, faults, lambda row: rows[row].get(kind.columns[0]))

        return self._with_kinds(found, of_kinds, drift)

    def few(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]] | None:
        """Encode the features of a few rows in a fraction of the time; None if there is anything to tell of them, or
        any value is spelled in another way than the schema's, or there are columns of other kinds.

        The same as :meth:`rows` gives.
        """
        if self._kinds:
            return None
        numbers: list[float] = []
        codes: list[int] = []
        try:
            for row in rows:
                for name, low, high in self._usual:
                    value = row[name]
                    if value is None:
                        value = nan
                    elif type(value) not in _NUMBERS or not low <= value <= high or value in self._gaps:
                        return None
                    numbers.append(value)
                for name, code in self._plan:
                    value = row[name]
                    codes.append(0 if value is None else code(value, -1))
        except (KeyError, TypeError):  # a column that is not there, a list
            return None
        if -1 in codes:
            return None
        numeric = np.array(numbers, dtype=np.float64).reshape(len(rows), len(self._usual))
        categorical = np.array(codes, dtype=np.int64).reshape(len(rows), len(self._plan))
        return {"numeric": self._standardised(numeric), "categorical": categorical}

    def _readable(self, kind: ColumnKind, columns: Sequence[Any], faults: Faults, cell: Callable[[int], Any]) -> Cells:
        cells, failed = readable_cells(kind, columns)
        _cannot_read(kind.columns[0], failed, cell, faults)
        return cells

    def _standardised(self, found: NDArray[np.float64]) -> NDArray[np.float32]:
        for place in self._logs:
            found[:, place] = logarithmic(np.ascontiguousarray(found[:, place]))
        return ((found - self._means) / self._stds).astype(np.float32)

    def _numeric(self, rows: Sequence[Mapping[str, Any]], drift: DriftCounts, faults: Faults) -> NDArray[np.float32]:
        flat = [row.get(name) for row in rows for name in self._names]
        if not _NUMBERS.issuperset(map(type, flat)):
            self._read(flat, rows, faults)
        try:
            found = np.array(flat, dtype=np.float64).reshape(len(rows), len(self._names))
        except OverflowError:  # an integer without end
            self._read(flat, rows, faults)
            found = np.array(flat, dtype=np.float64).reshape(len(rows), len(self._names))
        for number in self._gaps:
            found[found == number] = np.nan
        usual = (found >= self._low) & (found <= self._high)
        if not usual.all():
            self._count(found, usual, rows, drift, faults)
        return self._standardised(found)

    def _read(self, flat: list[Any], rows: Sequence[Mapping[str, Any]], faults: Faults) -> None:
        """Put numbers in place of other values."""
        width = len(self._names)
        for place, name in enumerate(self._names):
            notation, failed = self._notations.get(name, PLAIN), []
            for index in range(place, len(flat), width):
                value = flat[index]
                if type(value) is not float and value is not None:
                    flat[index] = number = number_of(value, self._spellings, notation)
                    if abs(number) > LARGEST:
                        flat[index] = nan
                        failed.append(index // width)
            if failed:
                faults.cannot_read(name, failed, lambda row, name=name: rows[row].get(name))  # type: ignore[misc]  # a default

    def _count(
        self,
        found: NDArray[np.float64],
        usual: NDArray[np.bool_],
        rows: Sequence[Mapping[str, Any]],
        drift: DriftCounts,
        faults: Faults,
    ) -> None:
        """Count missing cells, and numbers that are outside of what training saw or too large to be any."""
        gaps = found != found
        if not (usual | gaps).all():
            beyond = np.abs(found) > LARGEST
            for place in np.flatnonzero(beyond.any(0)).tolist():
                name, failed = self._names[place], np.flatnonzero(beyond[:, place]).tolist()
                faults.cannot_read(name, failed, lambda row, name=name: rows[row].get(name))  # type: ignore[misc]  # a default
            found[beyond] = np.nan
            gaps = found != found
        missing = gaps.sum(0)
        drift.add(0, (~(usual | gaps)).sum(0), missing)
        for place in missing.nonzero()[0].tolist():
            self._look_for(self._names[place], rows, faults)

    def _look_for(self, name: str, rows: Sequence[Mapping[str, Any]], faults: Faults) -> None:
        if lacking := sum(name not in row for row in rows):
            faults.lacks(name, lacking)

    def _categorical(self, rows: Sequence[Mapping[str, Any]], drift: DriftCounts, faults: Faults) -> NDArray[np.int64]:
        try:
            flat = [code(row.get(name)) for row in rows for name, code in self._plan]
        except TypeError:  # a list, which no dict takes
            flat = [None] * (len(rows) * len(self._plan))
        if None in flat:
            self._resolve(flat, rows, drift, faults)
        return np.array(flat, dtype=np.int64).reshape(len(rows), len(self._plan))

    def _resolve(
        self, flat: list[int | None], rows: Sequence[Mapping[str, Any]], drift: DriftCounts, faults: Faults
    ) -> None:
        """Put codes where a value is not in a vocabulary as it stands."""
        width = len(self._plan)
        new, gaps = np.zeros(width, dtype=np.int64), np.zeros(width, dtype=np.int64)
        for place, (name, code) in enumerate(self._plan):
            failed: list[int] = []
            notation = self._notations.get(name, PLAIN)
            for index in range(place, len(flat), width):
                if flat[index] is not None:
                    continue
                flat[index] = 0
                try:
                    text = text_of(rows[index // width].get(name), self._spellings)
                except CellError:
                    text = None
                    failed.append(index // width)
                if text is None:
                    gaps[place] += 1
                    continue
                text = text.lower() if notation.bools else text
                if (found := code(text)) is None:
                    new[place] += 1
                    drift.show(name, [text])
                else:
                    flat[index] = found
            if failed:
                faults.cannot_read(name, failed, lambda row, name=name: rows[row].get(name))  # type: ignore[misc]  # a default
            if gaps[place]:
                self._look_for(name, rows, faults)
        drift.add(len(self._names), new, gaps)


def _cannot_read(name: str, rows: Sequence[int], cell: Callable[[int], Any], faults: Faults) -> None:
    """Tell of cells of a column, which may have several features, once."""
    if rows and name not in faults.unreadable:
        faults.cannot_read(name, rows, cell)


def _quoted(cell: Any) -> str:
    try:
        return repr(cell)[:60]
    except RecursionError:  # lists in lists in lists
        return f"a {type(cell).__name__}"


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
