"""The results of a comparison as a table: a row per trial, task and metric, and how it is to be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mtl_lightning.study.grid import Cell
from mtl_lightning.study.queue import MESSAGE, RESULT

__all__ = ["read", "table_of", "write"]

_KEY = b"mtl_lightning"
_OF_TRIAL = {
    "epoch": pa.int64(),
    "chosen_by": pa.string(),
    "seconds": pa.float64(),
    "seconds_per_step": pa.float64(),
    "peak_memory": pa.int64(),
    "memory": pa.string(),
    "parameters": pa.int64(),
}
_OF_ROW = {
    "split": pa.string(),
    "task": pa.string(),
    "metric": pa.string(),
    "value": pa.float64(),
    "higher_is_better": pa.bool_(),
}
_SCHEMA = pa.schema(
    {
        "entry": pa.string(),
        "single_task": pa.string(),
        "seed": pa.int64(),
        "trial": pa.int64(),
        "state": pa.string(),
        "message": pa.string(),
        **_OF_ROW,
        **_OF_TRIAL,
    }
)


def table_of(cells: Iterable[Cell], trials: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Return the results of a grid as a ``pyarrow.Table``, in the grid's order.

    A trial that failed has one row, with its message and neither task nor metric.

    Args:
        cells: the grid.
        trials: of the study, by the keys of the cells.
        settings: how the table is to be read; goes into its metadata.
    """
    rows = []
    for cell in cells:
        trial = trials.get(cell.key)
        if trial is None:
            continue
        result = trial.user_attrs.get(RESULT) if trial.state.name == "COMPLETE" else None
        common = {
            "entry": cell.entry,
            "single_task": cell.task or None,
            "seed": cell.seed,
            "trial": trial.number,
            "state": "failed" if result is None else "complete",
            "message": trial.user_attrs.get(MESSAGE) if result is None else None,
            **({} if result is None else {name: result[name] for name in _OF_TRIAL}),
        }
        rows += [{**common, **row} for row in ([{}] if result is None else result["rows"])]
    return pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({_KEY: json.dumps(dict(settings))}))


def write(table: Any, folder: Path) -> Path:
    """Write ``results.parquet`` and ``results.csv``; return the former's path."""
    path = folder / "results.parquet"
    pq.write_table(table, path)
    pa_csv.write_csv(table, folder / "results.csv")
    return path


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of ``results.parquet``, and its settings."""
    table = pq.read_table(path)
    rows: Sequence[dict[str, Any]] = table.to_pylist()
    return list(rows), dict(json.loads(table.schema.metadata[_KEY]))
