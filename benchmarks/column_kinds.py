"""Loaders of a table with ids that are hashed and with lists: rows per second beside those of its numbers alone.

``python -m benchmarks.column_kinds [--rows 500000] [--workers 2] [--rounds 5]`` writes a Parquet file of 20 numbers, 2
columns of ids of 100,000 levels and 2 of lists of 1 to 5 of 1,000 elements; it goes through epochs of all of it, and of
its numbers alone, in turn, held in memory and streamed, without a model, and prints the best of each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.command import Benchmark
from benchmarks.records import Cell, Goal, Table
from benchmarks.timing import positive, silence_lightning
from mtl_lightning.data import TableData
from mtl_lightning.data.table.split import TableSplit

NUMBERS, IDS, ELEMENTS = 20, 100_000, 1_000
ROW_GROUP = 1 << 15
SHARE = 0.6  # of the speed of numbers alone, the goal


def made(rows: int, seed: int = 0) -> Any:
    """Return rows of all kinds, and a target."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"x{place}": random.standard_normal(rows, dtype=np.float32) for place in range(NUMBERS)}
    for name in ("user_id", "friend_id"):
        columns[name] = pa.array([f"u{n:06d}" for n in (random.random(rows) ** 2 * IDS).astype(int)])
    for name in ("tags", "history"):
        counts = random.integers(1, 6, rows)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        words = pa.array([f"element {n}" for n in range(ELEMENTS)])
        elements = words.take(pa.array((random.random(counts.sum()) ** 2 * ELEMENTS).astype(int)))
        columns[name] = pa.ListArray.from_arrays(offsets, elements)
    columns["y"] = random.standard_normal(rows, dtype=np.float32)
    return pa.table(columns)


def seconds_of_an_epoch(data: TableData) -> float:
    """Go through the training rows once."""
    started = time.perf_counter()
    for batch in data.train_dataloader():
        assert len(batch["targets"]["y"])
    return time.perf_counter() - started


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--rows", type=positive, default=500_000, help="rows of the table (500000)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read when streamed (2)")
    parser.add_argument("--batch-size", type=positive, default=1024, help="rows of a batch (1024)")
    parser.add_argument("--rounds", type=positive, default=5, help="epochs of each (5)")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Write the table and go through it in all ways."""
    silence_lightning()
    torch.set_num_threads(1)
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        pq.write_table(made(options.rows), path, row_group_size=ROW_GROUP)
        for stream in (False, True):
            for workers in (0, options.workers) if stream else (0,):
                best = _best(str(path), stream, workers, options.batch_size, options.rounds)
                alone, all_of_it = (options.rows / seconds for seconds in best)
                how = f"streamed, {workers} workers" if stream else "in memory"
                rows.append([how, alone, all_of_it, all_of_it / alone])
    yield Table(
        f"{options.rows:,} rows, the best of {options.rounds} epochs",
        {"rows are": "", "numbers alone, rows/s": ",.0f", "with ids and lists, rows/s": ",.0f", "share": ".0%"},
        rows,
        [Goal(f"share, {how}", float(share), SHARE, at_least=True) for how, _, _, share in rows],  # type: ignore[arg-type]
    )


def _best(path: str, stream: bool, workers: int, batch_size: int, rounds: int) -> tuple[float, float]:
    others = ["user_id", "friend_id", "tags", "history"]
    more: list[dict[str, Any]] = [{"ignore": others}, {"hashed": {"user_id": 200_000, "friend_id": 200_000}}]
    both = [
        TableData(
            train=path,
            targets=["y"],
            stream=stream,
            batch_size=batch_size,
            num_workers=workers,
            split=TableSplit(fractions=(1.0, 0.0, 0.0)),
            **how,
        )
        for how in more
    ]
    for data in both:
        seconds_of_an_epoch(data)  # reads, and fits
    found = [[seconds_of_an_epoch(data) for data in both] for _ in range(rounds)]
    return min(one[0] for one in found), min(one[1] for one in found)


BENCHMARK = Benchmark("column_kinds", __doc__, add_options, tables, quick=("--rows=100000", "--rounds=2"))
main = BENCHMARK.main

if __name__ == "__main__":
    main()
