"""The data-loading benchmark runs, and measures what it says. How fast anything is, it says itself."""

from __future__ import annotations

import os
import re
import sys
from multiprocessing import get_context
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import data_loading
from benchmarks.data_loading import Phase, Watch

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_loading, "ROW_GROUP", 500)
    monkeypatch.setattr(data_loading, "GROUPS_OF_A_FILE", 3)
    monkeypatch.setattr(data_loading, "CATEGORIES", 7)


@pytest.mark.slow  # a fresh process that imports everything
def test_the_command_writes_streams_and_prints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data_loading.main(["--gigabytes", "0.0004", "--workers", "1", "--folder", str(tmp_path)])
    check(capfd.readouterr().out, tmp_path, workers=1)


def test_an_epoch_is_streamed_and_reported(tmp_path: Path) -> None:
    paths = data_loading.generate(tmp_path, 400_000)
    phases = data_loading.run(tmp_path, 0, 64)
    size = sum(path.stat().st_size for path in paths)
    assert 400_000 <= size < 500_000
    check("\n".join(data_loading.report(phases, size, 0).markdown()), tmp_path, workers=0)


def check(printed: str, folder: Path, workers: int) -> None:
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in sorted(folder.glob("*.parquet"))]
    assert len(sizes) == 3
    assert f"\n### 0.00 GB of Parquet, {sum(sizes):,} rows, {workers} workers\n" in printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [row[0].split()[0] for row in rows] == ["first", "an", "naive"]
    assert [row[1] for row in rows] == [f"{sum(sizes):,}"] * 3
    assert re.findall(r"^- (.*): .* goal .*: (?:met|missed)$", printed, re.MULTILINE) == ["rows/s", "peak"]


def test_files_that_are_there_are_used_again(tmp_path: Path) -> None:
    first = data_loading.generate(tmp_path, 400_000)
    before = [path.stat().st_mtime_ns for path in first]
    assert data_loading.generate(tmp_path, 400_000) == first
    assert [path.stat().st_mtime_ns for path in first] == before
    table = pq.read_table(first[0])
    assert {name: table[name].null_count > 0 for name in ("x0", "c0", "amount", "kind")} == {
        **{"x0": False, "c0": True},
        **{"amount": True, "kind": True},
    }
    with pytest.raises(SystemExit, match="expected only the files of a table of this size"):
        data_loading.generate(tmp_path, 1_000)


@ON_LINUX
def test_memory_and_time_of_all_processes_are_added_up() -> None:
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(os.getppid) == os.getpid()
        processes = data_loading.descendants(os.getpid())
        assert processes[0] == os.getpid()
        assert len(processes) >= 2
        with Watch() as watch:
            held = bytearray(os.urandom(1 << 26))
            watch._look()
        found = watch.phase("a phase", len(held))
        own, other = (data_loading.pss(process) for process in processes[:2])
        assert found.peak >= own + other - (1 << 24) > 1 << 26
        assert 0 <= found.cpu <= found.seconds * len(processes) + 0.1
    assert data_loading.pss(2**22 + 1) == 0
    assert data_loading.cpu_seconds(2**22 + 1) is None


def test_the_report_says_what_is_met() -> None:
    fit, stream = Phase("fit", 10, 1.0, 1.0, 2e9), Phase("stream", 1_000_000, 2.0, 3.0, 1e9)
    lines = [*data_loading.report([fit, stream, Phase("naive", 1, 1.0, 1.0, 0.0)], 4_000_000_000, 2).markdown()]
    assert lines[-2:] == [
        "- rows/s: 500,000, goal >= 400,000: met",
        "- peak: 2,000 MB, goal <= 1,500 MB: missed",
    ]
    assert "| naive | 1 | 1 | 1.0 | 1.0 | unknown |" in lines
