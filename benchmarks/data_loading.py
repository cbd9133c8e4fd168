"""Stream a table that is larger than memory: rows per second, and the memory of all processes together.

``python -m benchmarks.data_loading [--gigabytes 4] [--workers 2] [--batch-size 1024] [--folder FOLDER]`` writes a
folder of Parquet files, unless it is there, fits a ``TableData(stream=True)`` on it, goes through an epoch of its
batches without a model, and prints a table. Memory is the peak of the sum of PSS (shared pages counted once) over the
process and its workers, looked at twice a second; it is known on Linux only.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.command import Benchmark
from benchmarks.records import Goal, Table
from benchmarks.timing import positive, silence_lightning
from mtl_lightning.data import TableData
from mtl_lightning.data.table.encoder import TableEncoder
from mtl_lightning.data.table.split import TableSplit

NUMERIC, CATEGORICAL, CATEGORIES = 20, 10, 1000
ROW_GROUP = 1 << 15
GROUPS_OF_A_FILE = 64
RATE, PEAK = 400_000, 1.5e9  # the goals: rows per second at least, bytes at most
NAIVE_ROWS = 1 << 20  # that the naive loop goes through
_EVERY = 0.5  # seconds between two looks at the memory


class Phase(NamedTuple):
    """What was measured of one phase."""

    name: str
    rows: int
    seconds: float
    cpu: float  # seconds of all processes
    peak: float  # bytes; 0 where it is not known


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command line."""
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the files, uncompressed (4)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read (2)")
    parser.add_argument("--batch-size", type=positive, default=1024, help="rows of a batch (1024)")
    parser.add_argument("--folder", type=Path, help="where the files are kept; by default nowhere")


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Write the files, go through them, and remove them."""
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        paths = generate(folder, int(options.gigabytes * 1e9))
        measure = partial(run, folder, options.workers, options.batch_size)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a process that has not generated anything
            phases = pool.submit(measure).result()
        yield report(phases, sum(path.stat().st_size for path in paths), options.workers)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------------------ the files
def generate(folder: Path, size: int) -> list[Path]:
    """Write files of about ``size`` bytes in all, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    while sum(path.stat().st_size for path in paths) < size:
        path = folder / f"part-{len(paths):04d}.parquet"
        if not path.exists():
            free = shutil.disk_usage(folder).free
            if free < 1 << 30:
                raise SystemExit(
                    f"expected at least 1 GiB free in {folder}, found {free / 2**30:.1f}: choose a --folder"
                )
            left = size - sum(other.stat().st_size for other in paths)
            write_file(path, seed=len(paths), size=left)
        paths.append(path)
    if extra := [*{*folder.glob("*.parquet")} - {*paths}]:
        raise SystemExit(f"expected only the files of a table of this size in {folder}, found {len(extra)} more")
    return paths


def write_file(path: Path, seed: int, size: int) -> None:
    """Write one file of at most ``GROUPS_OF_A_FILE`` row groups; it has its name when it is complete."""
    random = np.random.default_rng(seed)
    unfinished = path.with_suffix(".part")
    writer = None
    names = [f"c{column}" for column in range(CATEGORICAL)]
    for _ in range(GROUPS_OF_A_FILE):
        table = made(random, ROW_GROUP)
        if writer is None:
            writer = pq.ParquetWriter(unfinished, table.schema, compression="none", use_dictionary=[*names, "kind"])
        writer.write_table(table, row_group_size=ROW_GROUP)
        if unfinished.stat().st_size >= size:
            break
    assert writer is not None
    writer.close()
    unfinished.replace(path)


def made(random: np.random.Generator, rows: int) -> Any:
    """Return rows of numbers, categories as text, some of them missing, and two targets without every fifth label."""
    numbers = random.standard_normal((NUMERIC, rows), dtype=np.float32)
    words = pa.array([f"category {code:04d}" for code in range(CATEGORIES)])
    columns: dict[str, Any] = {f"x{place}": column for place, column in enumerate(numbers)}
    for place in range(CATEGORICAL):
        codes = (random.random(rows) ** 2 * CATEGORIES).astype(np.int32)
        missing = random.random(rows) < 0.02
        columns[f"c{place}"] = pa.DictionaryArray.from_arrays(pa.array(codes, mask=missing), words).cast(pa.string())
    unlabelled = random.random((2, rows)) < 0.2
    columns["amount"] = pa.array(numbers[0] + random.standard_normal(rows, dtype=np.float32), mask=unlabelled[0])
    kinds = pa.array(["first", "second", "third", "fourth"])
    columns["kind"] = kinds.take(pa.array(random.integers(0, 4, rows), mask=unlabelled[1]))
    return pa.table(columns)


# ----------------------------------------------------------------------------------------------------- the measuring
def run(folder: Path, workers: int, batch_size: int) -> list[Phase]:
    """Fit, stream an epoch and run the naive loop, in this process."""
    silence_lightning()
    torch.set_num_threads(1)
    data = TableData(
        path=str(folder),
        targets=["amount", "kind"],
        split=TableSplit(fractions=(1.0, 0.0, 0.0)),
        stream=True,
        batch_size=batch_size,
        num_workers=workers,
    )
    phases = []
    with Watch() as watch:
        rows = data.schema["rows"]
    phases.append(watch.phase("first pass: fit the schema, count the rows", rows))
    with Watch() as watch:
        found = sum(len(batch["targets"]["kind"]) for batch in data.train_dataloader())
    assert found == rows, f"{found} rows came of {rows}"
    phases.append(watch.phase(f"an epoch, {workers} workers", found))
    encoder = TableEncoder(data.schema)
    naive = min(rows, NAIVE_ROWS)
    with Watch() as watch:
        found = sum(len(encoder.encode(batch)["targets"]["kind"]) for batch in _naive(folder, batch_size, naive))
    phases.append(watch.phase("naive loop: `iter_batches` and encode, in order, no shuffling", found))
    return phases


def _naive(folder: Path, batch_size: int, rows: int) -> Iterator[Any]:
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size):
                if rows <= 0:
                    return
                rows -= batch.num_rows
                yield batch


class Watch:
    """Looks at the clock, and at memory and CPU time of this process and its descendants, while a block runs."""

    def __enter__(self) -> Watch:
        self.peak, self._cpu = 0.0, dict[int, float]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._look()
        self._before = dict(self._cpu)
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self._stop.set()
        self._thread.join()
        self._look()

    def phase(self, name: str, rows: int) -> Phase:
        """Return what was measured."""
        cpu = sum(spent - self._before.get(process, 0.0) for process, spent in self._cpu.items())
        return Phase(name, rows, self.seconds, cpu, self.peak)

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        if sys.platform == "linux":
            processes = descendants(os.getpid())
            self._cpu |= {process: spent for process in processes if (spent := cpu_seconds(process)) is not None}
            self.peak = max(self.peak, sum(map(pss, processes)))


def descendants(root: int) -> list[int]:
    """Return a process and all that it has started, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for process in found:  # it grows
        found += parents.get(process, [])
    return found


def cpu_seconds(process: int) -> float | None:
    """Return the CPU time that a process has spent; None if it is gone."""
    fields = _stat(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else None


def pss(process: int) -> int:
    """Return the memory of a process in bytes, of shared pages its part; 0 if it is gone."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _stat(process: int) -> list[str]:
    """Return the fields of proc(5)'s stat after the name: the state, the parent, ..."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# ---------------------------------------------------------------------------------------------------------- the report
def report(phases: Sequence[Phase], size: int, workers: int) -> Table:
    """Return speed and memory of all phases, and the goals, which are for the first two."""
    columns = {
        "phase": "", "rows": ",", "rows/s": ",.0f", "seconds": ".1f", "CPU seconds": ".1f",
        "peak of all processes, MB": ",.0f",
    }  # fmt: skip
    rows = [
        [name, rows, rows / seconds, seconds, cpu, peak / 1e6 if peak else "unknown"]
        for name, rows, seconds, cpu, peak in phases
    ]
    rate, peak = phases[1].rows / phases[1].seconds, max(phase.peak for phase in phases[:2])
    return Table(
        f"{size / 1e9:.2f} GB of Parquet, {phases[0].rows:,} rows, {workers} workers",
        columns,
        rows,
        [
            Goal("rows/s", rate, RATE, at_least=True, form=",.0f"),
            Goal("peak", peak / 1e6 if peak else math.nan, PEAK / 1e6, unit=" MB", form=",.0f"),
        ],
    )


BENCHMARK = Benchmark("data_loading", __doc__, add_options, tables, quick=("--gigabytes=0.1",))
main = BENCHMARK.main

if __name__ == "__main__":
    main()
