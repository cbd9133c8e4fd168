"""Predictions of a batch as answers: names of classes, and intervals around numbers; and columns of the rows kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtl_lightning.callbacks.parquet import KEY
from mtl_lightning.predictor.answers import array_of
from mtl_lightning.predictor.decode import half_widths
from mtl_lightning.predictor.description import is_table, names_from_schema
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError

_ROWS = 1 << 16  # that are put together at a time


@dataclass
class Answers:
    """How predictions become answers.

    Attributes:
        names: of the classes, by task.
        intervals: conformal calibrations, by task.
    """

    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tasks: Mapping[str, Task],
        schema: Mapping[str, Any] | None,
        calibration: Mapping[str, Any] | None,
        codes: bool,
    ) -> Answers:
        """Return how some tasks are answered: by names of classes where they have some, unless by ``codes``."""
        table = schema if is_table(schema) else None
        decodings = {name: names_from_schema(name, task.decoding(), table) for name, task in tasks.items()}
        names = {
            name: decoding["names"]
            for name, decoding in decodings.items()
            if not codes
            and decoding["form"] in ("binary", "classes")
            and decoding["names"] != [str(index) for index in range(len(decoding["names"]))]
        }
        known = {name: one for name, one in (calibration or {}).items() if one.get("method") == "conformal"}
        return cls(names, {name: one for name, one in known.items() if decodings[name]["form"] == "values"})

    @property
    def by(self) -> list[str]:
        """The columns of the rows by which intervals differ."""
        return list(dict.fromkeys(one["by"] for one in self.intervals.values() if one.get("groups") and one.get("by")))

    def of_batch(self, batch: Any) -> Any:
        """Return a record batch of predictions (B rows) with names in place of codes, and with intervals that are the
        same for all rows.
        """
        for task, names in self.names.items():
            place = batch.schema.get_field_index(task)
            if place >= 0 and pa.types.is_integer(batch.schema.field(place).type):
                batch = batch.set_column(place, task, pc.take(pa.array(names, pa.string()), batch.column(place)))
        for task, known in self.intervals.items():
            batch = _with_interval(batch, task, known, None)
        return batch

    def of_rows(self, table: Any, rows: Any) -> Any:
        """Return a table of answers (N rows) with the intervals that go by columns of the rows (N)."""
        for task, known in self.intervals.items():
            if known.get("groups") and known.get("by") in rows.schema.names and f"{task}.low" in table.schema.names:
                groups = [None if value is None else value.strip() for value in _texts(rows.column(known["by"]))]
                table = _with_interval(table.drop_columns([f"{task}.low", f"{task}.high"]), task, known, groups)
        return table


def _texts(column: Any) -> list[str | None]:
    found: list[str | None] = column.cast(pa.string()).to_pylist()
    return found


def _with_interval(batch: Any, task: str, known: Mapping[str, Any], groups: Sequence[str | None] | None) -> Any:
    """Add the columns ``<task>.low`` and ``<task>.high`` behind the task's."""
    place = batch.schema.get_field_index(task)
    if place < 0:
        return batch
    column = batch.column(place)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    values = flat.to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
    width = half_widths(known, groups, batch.num_rows).astype(values.dtype)
    shape = (-1,) if flat is column else values.shape
    batch = batch.add_column(place + 1, f"{task}.low", array_of((values - width).reshape(shape)))
    return batch.add_column(place + 2, f"{task}.high", array_of((values + width).reshape(shape)))


# ------------------------------------------------------------------------------------------- with the rows they are of
def finish(
    made: Path, into: Path, metadata: Mapping[str, Any], answers: Answers, rows: Iterator[Any], keep: Sequence[str]
) -> None:
    """Write predictions anew, with columns of the rows that they are of before them.

    Args:
        made: the file of predictions.
        into: the file to write.
        metadata: plain data, in place of the file's.
        answers: how rows change them.
        rows: the rows' tables, in the order of the predictions; only asked for where there is something to be had.
        keep: the columns to carry along.

    Raises:
        ConfigurationError: if there are fewer rows than predictions.
    """
    with pq.ParquetFile(made) as opened:
        writer: Any = None
        waiting = _Rows(rows)
        for batch in opened.iter_batches(_ROWS):
            table = pa.Table.from_batches([batch])
            if keep or answers.by:
                beside = waiting.take(table.num_rows)
                table = answers.of_rows(table, beside)
                for place, name in enumerate(keep):
                    table = table.add_column(place, name, beside.column(name))
            table = table.replace_schema_metadata({KEY: json.dumps(metadata).encode()})
            writer = writer or pq.ParquetWriter(into, table.schema)
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
        if writer is not None:
            writer.close()


class _Rows:
    """Tables that are asked for by the number of their rows."""

    def __init__(self, tables: Iterable[Any]) -> None:
        self._tables = iter(tables)
        self._waiting: list[Any] = []

    def take(self, number: int) -> Any:
        """Return the next rows."""
        while sum(table.num_rows for table in self._waiting) < number:
            table = next(self._tables, None)
            if table is None:
                raise ConfigurationError(
                    "PredictionWriter: expected as many rows to keep columns of as there are predictions, found fewer. "
                    "Leave the files as they are while they are predicted; or leave out `keep`."
                )
            self._waiting.append(table)
        whole = pa.concat_tables(self._waiting)
        self._waiting = [whole.slice(number)]
        return whole.slice(0, number)
