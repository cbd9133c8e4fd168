"""The pass through a streamed table before training: what is fitted on it, and where the rows of each split are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from mtl_lightning.data.streaming.source import ParquetSource, Slice
from mtl_lightning.data.streaming.split import StreamSplit
from mtl_lightning.data.table.readings import Locate

TRAIN = 0


def scan(
    source: ParquetSource, split: StreamSplit | None = None, update: Callable[[Any, Locate], None] | None = None
) -> list[list[int]]:
    """Go through a table once, with the memory of one block.

    Args:
        source: the table, with the columns that ``split`` and ``update`` look at.
        split: of the rows; without it all of them are for training.
        update: is given the training rows, some slices at a time, as ``pyarrow.Table``; and what says where a row is.

    Returns:
        For training, validation and test, the number of rows of each slice.

    Raises:
        DataError: for a cell that cannot be read; names file and row.
    """
    counts = np.zeros((3, len(source.slices)), dtype=np.int64)
    waiting: list[tuple[Any, Slice, Any]] = []
    looks = update is not None or (split is not None and len(split.columns) > 0)
    for place, part in enumerate(source.slices):
        table: Any = source.read(part) if looks else None
        if split is None:
            found = np.full(part.rows, TRAIN)
        else:
            with source.located([(part, np.arange(part.rows))]):
                found = split(table, part)
        counts[:, place] = np.bincount(found[found >= 0], minlength=3)
        if update is not None and counts[TRAIN, place]:
            rows = np.flatnonzero(found == TRAIN)
            waiting.append((table if len(rows) == part.rows else table.take(rows), part, rows))
            if sum(len(rows) for *_, rows in waiting) >= source.buffer_rows:
                _flush(source, waiting, update)
    if update is not None:
        _flush(source, waiting, update)
    return counts.tolist()


def _flush(source: ParquetSource, waiting: list[tuple[Any, Slice, Any]], update: Callable[[Any, Locate], None]) -> None:
    if waiting:
        places = [(part, rows) for _, part, rows in waiting]
        with source.located(places):
            update(pa.concat_tables([table for table, *_ in waiting]), lambda row: source.locate(places, row))
        waiting.clear()


def remembered(folder: Path | None, key: Mapping[str, Any], paths: Sequence[Path], make: Callable[[], Any]) -> Any:
    """Return what ``make`` makes of some files, from a file in ``folder`` if it has been made of the same files before.

    Args:
        folder: where it is kept, as JSON; None keeps nothing.
        key: plain data that ``make`` depends on, beside the files.
        paths: the files; the same are those of the same names, sizes and times of change.
        make: gives plain data.
    """
    if folder is None:
        return make()
    known = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    digest = hashlib.blake2b(json.dumps([key, known], sort_keys=True).encode(), digest_size=16).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"stream.{digest}.json"
    with FileLock(file.with_suffix(".lock")):  # other processes of this machine wait for the first
        if not file.exists():
            unfinished = file.with_suffix(".part")
            unfinished.write_text(json.dumps(make()))
            unfinished.replace(file)
    return json.loads(file.read_text())
