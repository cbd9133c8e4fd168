"""Applies a table's schema to its features: record batches to arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import CellError, numbers, texts
from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.kinds import Cells, ColumnKind, kinds_of
from mtl_lightning.encoding.kinds.base import DTYPES
from mtl_lightning.encoding.moments import logarithmic
from mtl_lightning.encoding.notation import PLAIN, Notation
from mtl_lightning.errors import DataError
from mtl_lightning.names import did_you_mean, listed


class RowEncoder:
    """Turns the features of rows into what a network reads, by a schema that a
    :class:`~mtl_lightning.data.TableFitter` has fitted; it can be pickled.

    Numeric columns become standardised float32, nan where a number is missing. The values of a categorical column
    become codes 1, 2, ..., and 0 where one is missing or was not met in training. Columns of other kinds
    (:mod:`~mtl_lightning.encoding.kinds`) add numbers or codes after these. The order of the table's columns does not
    matter, nor do columns that the schema does not know.

    Args:
        schema: as of :meth:`~mtl_lightning.data.TableFitter.finish`.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = dict(schema)
        self._spellings = frozenset(schema["missing_values"])
        reads = schema.get("reads", {})  # none before version 0.2
        self._notations = {name: Notation.from_dict(read) for name, read in reads.items()}
        self._codes = {name: {value: i + 1 for i, value in enumerate(v)} for name, v in schema["categorical"].items()}
        self._kinds = kinds_of(self.schema)

    def features(self) -> dict[str, Literal["number", "text"]]:
        """Return the columns of features, and as what they are best read from a text file."""
        return self._as_text(self._as_numbers())

    def _as_numbers(self) -> dict[str, Literal["number", "text"]]:
        """Return the columns that are read as numbers at least."""
        kinds = (kind for kind in self._kinds.values() if kind.reads == "number")
        return dict.fromkeys([*self.schema["numeric"], *(name for kind in kinds for name in kind.columns)], "number")

    def kinds_of_column(self, name: str) -> list[ColumnKind]:
        """Return the features of other kinds that are made of a column."""
        return [kind for kind in self._kinds.values() if name in kind.columns]

    def _as_text(self, kinds: dict[str, Literal["number", "text"]]) -> dict[str, Literal["number", "text"]]:
        """Return columns with those as text that are categories, or numbers spelled in a way that Arrow cannot read."""
        spelled = {name for name, notation in self._notations.items() if not notation.is_plain}
        texts = (name for kind in self._kinds.values() if kind.reads == "text" for name in kind.columns)
        return kinds | dict.fromkeys([*self.schema["categorical"], *texts, *(kinds.keys() & spelled)], "text")

    def inputs(
        self, batch: Any, drift: DriftCounts | None = None, counted: Any = slice(None)
    ) -> dict[str, NDArray[Any]]:
        """Encode the features of rows.

        Args:
            batch: an Arrow record batch or table (N rows) with at least the columns of :meth:`features`.
            drift: counts what training never saw.
            counted: those of the rows (N,) that it looks at, by default all.

        Returns:
            ``numeric`` (N, Dn) float32 and ``categorical`` (N, Dc) int64; and ``lists`` (N, L) int64 where there are
            columns of lists.

        Raises:
            DataError: for a column that is not there.
            CellError: for a cell that cannot be read; it knows its row.
        """
        return self._encoded(
            batch.num_rows,
            lambda name: self._numbers(batch, name),
            lambda name: self._texts(batch, name),
            lambda kind: self._kind_cells(batch, kind),
            drift,
            counted,
        )

    def _encoded(
        self,
        rows: int,
        of_numbers: Callable[[str], NDArray[np.float64]],
        of_texts: Callable[[str], tuple[NDArray[np.int64], list[str]]],
        of_kinds: Callable[[ColumnKind], Cells],
        drift: DriftCounts | None,
        counted: Any = slice(None),
    ) -> dict[str, NDArray[Any]]:
        """Encode columns that are read by name."""
        if drift is not None:
            drift.begin(len(np.arange(rows)[counted]))
        numeric = np.empty((rows, len(self.schema["numeric"])), dtype=np.float32)
        for place, (name, known) in enumerate(self.schema["numeric"].items()):
            found = of_numbers(name)
            if drift is not None:
                drift.numbers(place, name, found[counted])
            found = logarithmic(found) if known["log1p"] else found
            numeric[:, place] = (found - known["mean"]) / known["std"]
        categorical = np.empty((rows, len(self._codes)), dtype=np.int64)
        for place, (name, codes) in enumerate(self._codes.items()):
            indices, values = of_texts(name)
            categorical[:, place] = np.array([*(codes.get(value, 0) for value in values), 0], dtype=np.int64)[indices]
            if drift is not None:
                drift.categories(place, name, categorical[counted, place], indices[counted], values)
        return self._with_kinds({"numeric": numeric, "categorical": categorical}, of_kinds, drift, counted)

    def _with_kinds(
        self,
        inputs: dict[str, NDArray[Any]],
        of_kinds: Callable[[ColumnKind], Cells],
        drift: DriftCounts | None,
        counted: Any = slice(None),
    ) -> dict[str, NDArray[Any]]:
        """Return the arrays of numbers and categories with those of other kinds beside them."""
        if not self._kinds:
            return inputs
        parts: dict[str, list[NDArray[Any]]] = {block: [array] for block, array in inputs.items()}
        for place, kind in enumerate(self._kinds.values()):
            cells = of_kinds(kind)
            parts.setdefault(kind.block, []).append(cells.array.astype(DTYPES[kind.block], copy=False))
            if drift is not None:
                drift.cells(place, cells, counted)
        return {block: found[0] if len(found) == 1 else np.concatenate(found, 1) for block, found in parts.items()}

    def _kind_cells(self, batch: Any, kind: ColumnKind) -> Cells:
        try:
            return kind.encode(*(column_of(batch, name) for name in kind.columns))
        except CellError as error:
            raise CellError(f"column {kind.columns[0]!r}: {error}", error.row) from error

    def _numbers(self, batch: Any, name: str) -> NDArray[np.float64]:
        try:
            return numbers(column_of(batch, name), self._spellings, self._notations.get(name, PLAIN))
        except CellError as error:
            raise CellError(f"column {name!r}: {error}", error.row) from error

    def _texts(self, batch: Any, name: str) -> tuple[NDArray[np.int64], list[str]]:
        try:
            return self._lowered(name, *texts(column_of(batch, name), self._spellings))
        except CellError as error:
            raise CellError(f"column {name!r}: {error}", error.row) from error

    def _lowered(self, name: str, indices: NDArray[np.int64], values: list[str]) -> tuple[NDArray[np.int64], list[str]]:
        """Return texts of a column, those of true and false in small letters."""
        notation = self._notations.get(name)
        return indices, [value.lower() for value in values] if notation and notation.bools else values


def column_of(batch: Any, name: str) -> Any:
    """Return a column of a batch.

    Raises:
        DataError: if it is not there.
    """
    names = batch.schema.names
    if name not in names:
        raise DataError(
            f"Expected a column {name!r}, as the model was trained with, found {listed(names)}."
            f"{did_you_mean(name, names)}"
        )
    return batch.column(name)
