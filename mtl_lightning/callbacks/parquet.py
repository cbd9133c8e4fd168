"""Predictions as Parquet: columns of a batch, a file that grows batch by batch, and the parts of several processes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mtl_lightning.types import ConfigurationError

KEY = b"mtl_lightning"  # of the JSON in the schema's metadata
Prediction: TypeAlias = Mapping[str, Tensor | Mapping[str, Tensor]]
_ROW_GROUP = 2**24  # bytes that are collected before they are written


def columns_of(prediction: Prediction) -> dict[str, Tensor]:
    """Name the columns of a batch of predictions ``{task: tensor}`` or ``{task: {key: tensor}}``.

    A tensor is the column ``<task>``. Of several tensors ``"label"`` or ``"value"``, or the first one if there is
    neither, is the column ``<task>``, and the others are ``<task>.<key>``.
    """
    columns: dict[str, Tensor] = {}
    for task, value in prediction.items():
        if isinstance(value, Tensor):
            columns[task] = value
            continue
        main = next((key for key in ("label", "value") if key in value), next(iter(value)))
        columns[task] = value[main]
        columns |= {f"{task}.{key}": part for key, part in value.items() if key != main}
    return columns


def record_batch(columns: Mapping[str, Tensor]) -> Any:
    """Turn columns (B,) and (B, D) into a ``pyarrow.RecordBatch``; (B, D) becomes lists of the fixed size D.

    Half-precision numbers, which few readers of Parquet know, become float32.

    Raises:
        ConfigurationError: for columns of another shape, and for columns that differ in B.
    """
    for name, column in columns.items():
        if column.dim() not in (1, 2):
            raise ConfigurationError(
                f"Column {name!r}: expected predictions of shape (B,) or (B, D), found {tuple(column.shape)}."
            )
    rows_of(columns)
    return pa.RecordBatch.from_arrays([_array(column) for column in columns.values()], names=list(columns))


def id_columns(ids: Any, name: str = "ids") -> dict[str, Any]:
    """Return what travels along with the rows of a batch as Arrow arrays (B,) by column.

    Those of a dict are called as its keys, others ``ids``; a tensor or an array (B, D) becomes lists.
    """
    if isinstance(ids, Mapping):
        above = "" if name == "ids" else f"{name}."
        return {k: v for key, value in ids.items() for k, v in id_columns(value, f"{above}{key}").items()}
    if isinstance(ids, Tensor):
        ids = ids.detach().cpu()
        ids = ids.float() if ids.dtype == torch.bfloat16 else ids
    values = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else list(ids)
    try:
        return {name: pa.array(values)}
    except (pa.ArrowException, TypeError):
        return {name: pa.array([str(value) for value in values])}


def beside(ids: Mapping[str, Any], batch: Any, rows: int) -> Any:
    """Return a record batch of B rows, None for one without columns, with columns of ids before its own.

    Raises:
        ConfigurationError: for ids of another number of rows, and for those that are called as another column.
    """
    others = {} if batch is None else dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, column in ids.items():
        if len(column) != rows or name in others:
            taken = f"a column {name!r} already" if name in others else f"{len(column)}"
            raise ConfigurationError(
                f"`ids`, {name!r}: expected one for each of {rows} rows, under a name that no task's column "
                f"has, found {taken}."
            )
    return pa.RecordBatch.from_arrays([*ids.values(), *others.values()], names=[*ids, *others])


def rows_of(columns: Mapping[str, Tensor]) -> int:
    """Return B, the number of rows of all columns (B, *).

    Raises:
        ConfigurationError: for a number without rows, and for columns that differ in B.
    """
    if single := [name for name, column in columns.items() if not column.dim()]:
        raise ConfigurationError(
            f"Column {single[0]!r}: expected one prediction per row of the batch, found one number."
        )
    rows = {name: len(column) for name, column in columns.items()}
    if len(set(rows.values())) != 1:
        raise ConfigurationError(f"Expected one value per row of the batch in every column, found {rows} rows.")
    return next(iter(rows.values()))


def _array(column: Tensor) -> Any:
    column = column.detach().cpu()
    if column.dtype in (torch.float16, torch.bfloat16):
        column = column.float()
    values = pa.array(column.reshape(-1).numpy())
    return values if column.dim() == 1 else pa.FixedSizeListArray.from_arrays(values, column.shape[1])


def is_ours(path: Path) -> bool:
    """Whether a file is one of predictions."""
    try:
        return KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


class Part:
    """A Parquet file that grows batch by batch, a row group for every 16 MiB; the first batch gives it its columns.

    Args:
        path: of the file.
        metadata: plain data for the schema's metadata, there as JSON under :data:`KEY`.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.rows = 0
        self._metadata = {KEY: json.dumps(metadata).encode()}
        self._waiting: list[Any] = []
        self._bytes = 0
        self._schema: Any = None
        self._writer: Any = None

    def write(self, batch: Any) -> None:
        """Add the rows of a ``pyarrow.RecordBatch``.

        Raises:
            ConfigurationError: if its columns are not those of the first batch.
        """
        if self._schema is None:
            self._schema = batch.schema.with_metadata(self._metadata)
            self._writer = pq.ParquetWriter(self.path, self._schema)
        elif not batch.schema.equals(self._schema):
            raise ConfigurationError(
                f"Expected the columns of the first batch in all of them, {_types(self._schema)}, found "
                f"{_types(batch.schema)}."
            )
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches([batch.replace_schema_metadata(self._metadata) for batch in self._waiting])
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
            self._waiting, self._bytes = [], 0

    def close(self) -> None:
        """Write what is left; the file can be read then."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def discard(self) -> None:
        """Remove the file."""
        if self._writer is not None:
            self._writer.close()
        self.path.unlink(missing_ok=True)


def _types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


# ------------------------------------------------------------------------------------------- parts of several processes
def merge(parts: Sequence[Path | None], path: Path, rows: int) -> None:
    """Put the parts of W processes into one file, in the order of the dataset's rows.

    Row p of the part of rank r is row ``p * W + r``, as torch's ``DistributedSampler`` (not shuffling) and this
    library's loader share them out; a row at or beyond ``rows`` was made up to fill a last batch, and is dropped.

    Args:
        parts: the file of each rank; None for one that had no rows.
        path: the file to write.
        rows: the number of rows of the dataset.

    Raises:
        ConfigurationError: if the rows of the parts are not shared out in that way.
    """
    files = [None if part is None else pq.ParquetFile(part) for part in parts]
    check_shares([0 if file is None else file.metadata.num_rows for file in files], rows)
    present = [file for file in files if file is not None]
    at_once = max(1, present[0].metadata.row_group(0).num_rows // len(files))
    empty: Iterator[Any] = iter(())
    streams = [empty if file is None else file.iter_batches(batch_size=at_once) for file in files]
    with pq.ParquetWriter(path, present[0].schema_arrow) as writer:
        for turn, blocks in enumerate(zip_longest(*streams)):
            index = [
                (turn * at_once + np.arange(block.num_rows)) * len(files) + rank
                for rank, block in enumerate(blocks)
                if block is not None
            ]
            place = np.concatenate(index)
            order = np.argsort(place)
            table = pa.Table.from_batches([block for block in blocks if block is not None], present[0].schema_arrow)
            writer.write_table(table.take(order[place[order] < rows]))
    for file in present:
        file.close()


def check_shares(found: Sequence[int], rows: int) -> None:
    """Refuse parts that cannot have been shared out row by row, with at most one made-up row at the end of each."""
    world = len(found)
    real = [min(here, len(range(rank, rows, world))) for rank, here in enumerate(found)]
    expected = [len(range(rank, sum(real), world)) for rank in range(world)]
    if real != expected or max(found) > math.ceil(rows / world):
        raise ConfigurationError(
            f"Expected rank r of {world} to have predicted the rows r, r + {world}, r + {2 * world}, ... of {rows}, "
            f"found parts of {list(found)} rows. Let the trainer share out the rows (`use_distributed_sampler`), with "
            "a loader that does not shuffle; or predict with one process."
        )
