"""A table larger than memory as blocks of rows, each read and encoded at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from mtl_lightning.data.ids import taken, without_ids
from mtl_lightning.data.streaming.source import ParquetSource, Slice
from mtl_lightning.nested import map_leaves
from mtl_lightning.types import Batch, ConfigurationError, DataError

Encode: TypeAlias = Callable[[Any], Batch]
"""Turns the rows of a ``pyarrow.Table`` into one batch; picklable."""
Select: TypeAlias = Callable[[Any, Slice], Any]
"""Says which rows of a slice, a ``pyarrow.Table``, are in the split: NumPy (rows,) bool; picklable."""


class Stride(NamedTuple):
    """Of the rows of a slice that are in the split, ``[start:stop:step]``."""

    place: int  # of the slice in the source's list
    start: int
    stop: int
    step: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(range(self.start, self.stop, self.step))


class Block(NamedTuple):
    """Rows that are read at once."""

    strides: tuple[Stride, ...]
    seed: int | None = None  # of the order of the rows; None leaves them as they are
    labelled: bool = True  # without labels they fill up the last batch of a short rank

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(stride.rows for stride in self.strides)


class StreamedRows(Dataset[Batch]):
    """The rows of one split of a table in Parquet files; an item is a block of them, encoded.

    Args:
        source: the table.
        encode: makes the batch ``{"inputs": ..., "targets": {task: ...}}`` of a block's rows.
        select: which rows are in the split; by default all of them.
        counts: how many rows of each slice ``select`` finds.

    Raises:
        ConfigurationError: if ``select`` and ``counts`` do not come together.
    """

    deterministic = True

    def __init__(
        self,
        source: ParquetSource,
        encode: Encode,
        *,
        select: Select | None = None,
        counts: Sequence[int] | None = None,
    ) -> None:
        if (select is None) != (counts is None):
            raise ConfigurationError("Expected `select` and `counts` together, found only one of them.")
        self.source, self.encode, self.select = source, encode, select
        self.counts = [part.rows for part in source.slices] if counts is None else list(counts)
        indices = range(len(source.slices))
        keyed = groupby(indices, key=lambda index: source.slices[index][:2])
        self.row_groups = [[index for index in group if self.counts[index]] for _, group in keyed]

    def __len__(self) -> int:
        """Return the number of rows of the split."""
        return sum(self.counts)

    def __getitem__(self, block: Block) -> Batch:
        read = [self._read(stride) for stride in block.strides]
        tables = [table for table, *_ in read]
        with self.source.located([(part, rows) for _, part, rows in read]):
            batch = self.encode(pa.concat_tables(tables) if len(tables) > 1 else tables[0])
        if block.seed is None:
            return batch
        order = torch.randperm(block.rows, generator=torch.Generator().manual_seed(block.seed))
        rest, ids = without_ids(batch)
        shuffled = map_leaves(lambda column: column.index_select(0, order), rest)
        return cast("Batch", {**shuffled, **{key: taken(value, order) for key, value in ids.items()}})

    def tables(self) -> Iterator[Any]:
        """Yield all rows of the split as they are, a ``pyarrow.Table`` for each slice that has some, in their order."""
        for place, count in enumerate(self.counts):
            if count:
                yield self._read(Stride(place, 0, count, 1))[0]

    def _read(self, stride: Stride) -> tuple[Any, Slice, Any]:
        """Return a stride as a table, and where it comes from: a slice, and its rows (N,)."""
        part = self.source.slices[stride.place]
        table = self.source.read(part)
        found = np.arange(part.rows)
        if self.select is not None:
            with self.source.located([(part, found)]):
                found = np.flatnonzero(self.select(table, part))
        counted = self.counts[stride.place]
        if len(found) != counted:
            raise DataError(
                f"{self.source.name(part)}: expected {counted} rows of this split, as counted before, "
                f"found {len(found)}. Leave the files as they are while they are read."
            )
        rows = found[stride.start : stride.stop : stride.step]
        return (table if len(rows) == part.rows else table.take(rows)), part, rows
