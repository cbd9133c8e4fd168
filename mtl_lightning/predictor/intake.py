"""Raw rows of a table as the network's inputs, and what of them is unlike training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.lenient import Faults, LenientEncoder
from mtl_lightning.encoding.reader import As
from mtl_lightning.predictor.arrays import Inputs, as_inputs, rows_of
from mtl_lightning.predictor.report import Report, report_of
from mtl_lightning.predictor.tables import pieces_of

__all__ = ["ArrayIntake", "Encoded", "TableIntake", "intake_of"]


_FEW = 3  # rows, in which gaps are always chance


class Encoded(NamedTuple):
    """Inputs of N rows, what is said of them, and by name the texts of columns that answers depend on."""

    inputs: Inputs
    rows: int
    report: Report
    groups: Mapping[str, list[str | None]]


class TableIntake:
    """Encodes rows of a table.

    Args:
        schema: the table's.
        text: how text files are read.
        groups: columns whose texts are needed as well.
    """

    def __init__(self, schema: Mapping[str, Any], text: Mapping[str, Any], groups: Iterable[str] = ()) -> None:
        self._encoder = LenientEncoder(schema)
        self._missing = schema["missing_values"]
        self._text, self._groups = dict(text), list(groups)
        features = self._encoder.features()
        self._lists = [n for n in features if any(kind.holds_lists for kind in self._encoder.kinds_of_column(n))]
        self._columns: dict[str, As] = {
            **features,
            **dict.fromkeys(self._groups, "text"),
        }

    def __call__(self, given: Any) -> Encoded:
        """Encode rows; see :func:`~mtl_lightning.predictor.tables.pieces_of` for what they may be."""
        few = self._few_of(given)
        inputs = None if few is None else self._encoder.few(few)
        if few is not None and inputs is not None:
            return Encoded(inputs, len(few), Report(len(few)), {})
        drift, faults = self._encoder.counts(), Faults()
        groups: dict[str, list[str | None]] = {name: [] for name in self._groups}
        found: list[dict[str, NDArray[Any]]] = []
        for piece in pieces_of(given, self._columns, self._text, self._missing, self._lists):
            found.append(self._piece(piece, drift, faults))
            for name, texts in groups.items():
                texts += self._encoder.texts(piece, name)
        inputs = (
            found[0] if len(found) == 1 else {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        )
        rows = drift.rows
        return Encoded(inputs, rows, report_of(drift, faults) if drift.any() or faults else Report(rows), groups)

    def _few_of(self, given: Any) -> list[Mapping[str, Any]] | None:
        """Return a few rows as dicts, of which there may be nothing to tell; None for others."""
        if isinstance(given, pa.Table | pa.RecordBatch) and 0 < given.num_rows <= _FEW and not self._groups:
            names = given.schema.names
            wanted = [name for name in self._columns if names.count(name) == 1]
            rows: list[Mapping[str, Any]] = given.select(wanted).to_pylist()
            return rows
        is_list = isinstance(given, list) and 0 < len(given) <= _FEW and isinstance(given[0], Mapping)
        return given if is_list and not self._groups else None

    def _piece(self, piece: Any, drift: DriftCounts, faults: Faults) -> dict[str, NDArray[Any]]:
        before, own = drift.rows, Faults()
        encode = self._encoder.rows if isinstance(piece, list | tuple) else self._encoder.table
        inputs = encode(piece, drift, own)
        if own:
            faults.add(own, before)
        return inputs


class ArrayIntake:
    """Takes arrays as they are, checked against an input spec.

    Args:
        spec: as plain data; None if it is not known.
        groups: entries with one integer a row, or columns of the spec's table, whose values are needed as texts.
    """

    def __init__(self, spec: Mapping[str, Any] | None, groups: Iterable[str] = ()) -> None:
        self._spec, self._groups = spec, list(groups)
        columns = list(((spec or {}).get("table") or {}).get("categorical", ()))
        self._places = {name: columns.index(name) for name in self._groups if name in columns}

    def __call__(self, given: Any) -> Encoded:
        """Return arrays as the network takes them; see :func:`~mtl_lightning.predictor.arrays.as_inputs`."""
        inputs = as_inputs(given, self._spec)
        rows = rows_of(inputs)
        groups = {name: self._texts(inputs, name, rows) for name in self._groups}
        return Encoded(inputs, rows, Report(rows), groups)

    def _texts(self, inputs: Inputs, name: str, rows: int) -> list[str | None]:
        if not isinstance(inputs, dict):
            return [None] * rows
        place = self._places.get(name)
        if place is None:
            return [str(value) for value in inputs[name].reshape(-1).tolist()] if name in inputs else [None] * rows
        return [str(code) if code > 0 else None for code in inputs["categorical"][:, place].tolist()]


def intake_of(description: Mapping[str, Any]) -> TableIntake | ArrayIntake:
    """Return what takes the rows of the data that a description is of."""
    calibration: Mapping[str, Any] = description["calibration"] or {}
    groups = dict.fromkeys(known["by"] for known in calibration.values() if known.get("by") is not None)
    if description["schema"] is None:
        return ArrayIntake(description["input_spec"], groups)
    return TableIntake(description["schema"], description.get("text") or {}, groups)
