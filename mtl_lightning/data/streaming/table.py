"""A table with columns, targets and a split, streamed: fitted in one pass, then read while it is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtl_lightning.data.streaming.rows import Encode, StreamedRows
from mtl_lightning.data.streaming.scan import remembered, scan
from mtl_lightning.data.streaming.source import ParquetSource
from mtl_lightning.data.streaming.split import InSplit, StreamSplit
from mtl_lightning.data.table.columns import TableColumns
from mtl_lightning.data.table.schema import TableFitter
from mtl_lightning.encoding.reader import is_parquet
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError


@dataclass(frozen=True)
class Streaming(Ranged):
    """How a table that is larger than memory is read: row group by row group, by worker processes.

    What it costs: row groups that hold rows of other splits are read and filtered, so that a small validation split by
    chance takes as long as all rows; one in files of its own (``val``) does not. A row group of more than
    ``buffer_rows`` rows is decoded by every worker that has a part of it: write row groups of 10,000 to 100,000 rows.
    Several processes that predict read all rows each.

    Args:
        buffer_rows: rows that are read, and shuffled, at once
            (:class:`~mtl_lightning.data.streaming.source.ParquetSource`); by default as many as take 16 MiB.
        cache: a folder for what the first pass finds (the schema, and how many rows of each split are where), so that
            other processes and later runs on the same files need not make it again. By default nothing is kept.
    """

    buffer_rows: int | None = None
    cache: str | None = None


class TableStream:
    """Parquet files of one table.

    Args:
        files: the files, in the order of their rows.
        options: how they are read.
        split: of the rows; without it all of them are in one split.

    Raises:
        ConfigurationError: for files that are not Parquet.
        DataError: as of :class:`~mtl_lightning.data.streaming.source.ParquetSource`.
    """

    def __init__(self, files: Sequence[Path], options: Streaming, split: StreamSplit | None = None) -> None:
        if other := [file for file in files if not is_parquet(file)]:
            raise ConfigurationError(
                f"{other[0]}: expected Parquet files to stream, which can be read from the middle, found another "
                'format. Convert them once: python -c "import pyarrow.dataset as d; d.write_dataset(d.dataset('
                "'FOLDER', format='csv'), 'NEW', format='parquet', min_rows_per_group=65536, "
                'max_rows_per_group=65536)"; or leave out `stream`.'
            )
        self.source = ParquetSource(files, columns=(), buffer_rows=options.buffer_rows)
        self.split = split
        self._cache = None if options.cache is None else Path(options.cache)
        self._counts: list[list[int]] | None = None

    def fit(self, columns: TableColumns) -> dict[str, Any]:
        """Fit a schema on the training rows, with bounded memory, or take it from the cache."""

        def make() -> dict[str, Any]:
            fitter = TableFitter(columns)
            counts = scan(self._with(fitter.needed(self.source.names)), self.split, fitter.update)
            return {"schema": fitter.finish(), "counts": counts}

        found = remembered(self._cache, self._key() | {"columns": asdict(columns)}, self.source.paths, make)
        self._counts = found["counts"]
        schema: dict[str, Any] = found["schema"]
        return schema

    def rows(self, split: int, encode: Encode, columns: Iterable[str]) -> StreamedRows:
        """Return the rows of a split (0 training, 1 validation, 2 test), or all of them if they are not divided.

        Args:
            split: which.
            encode: makes batches of them.
            columns: what ``encode`` looks at.
        """
        source = self._with(columns)
        if self.split is None:
            return StreamedRows(source, encode)
        if self._counts is None:
            key = self._key()
            self._counts = remembered(self._cache, key, source.paths, lambda: scan(self._with(()), self.split))
        return StreamedRows(source, encode, select=InSplit(self.split, split), counts=self._counts[split])

    def _with(self, columns: Iterable[str]) -> ParquetSource:
        needed = dict.fromkeys([*columns, *(self.split.columns if self.split else ())])
        return self.source.only([*needed])

    def _key(self) -> dict[str, Any]:
        split = self.split.settings() if self.split else None
        return {"format": 3, "buffer_rows": self.source.buffer_rows, "split": split}
