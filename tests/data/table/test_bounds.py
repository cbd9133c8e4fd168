"""Files that would fill the memory: each ends in one sentence, early, and files of honest sizes are read."""

from __future__ import annotations

import bz2
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl_lightning.data.streaming.source import ParquetSource
from mtl_lightning.encoding.reader import TableFiles
from mtl_lightning.types import DataError

FREE = 1 << 16  # in place of 256 MiB


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_lightning.encoding.sizes._FREE", FREE)


def count(path: Path) -> int:
    """Read a table as training does; return its rows."""
    files = TableFiles(path)
    return sum(piece.rows.num_rows for piece in files.pieces(dict.fromkeys(files.names(), "number")))


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, zstd])
def test_a_packed_file_that_grows_without_end_is_refused(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(pack(b"a,b\n" + b"1,2\n" * (1 << 19)))
    with pytest.raises(DataError, match=r"t.csv.gz: expected a table, found that its \d+ bytes unpack to more"):
        count(path)


def test_a_packed_table_of_an_honest_size_is_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=20_000)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"\n".join(b"%.6f" % value for value in rows) + b"\n"))
    assert count(path) == len(rows)


def parquet(path: Path, column: Any, **options: Any) -> Path:
    pq.write_table(pa.table({"a": column}), path, **options)
    return path


def test_parquet_rows_without_end_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", pa.array(np.zeros(3_000_000, dtype=np.int8)))
    for read in (count, lambda file: ParquetSource([file])):
        with pytest.raises(DataError, match=r"its \d+ bytes claim to hold 3000000 rows, \d+ bytes unpacked"):
            read(path)


def test_a_huge_value_of_parquet_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", ["x" * 10_000_000, "y"], compression="zstd")
    for read in (count, lambda file: ParquetSource([file])):
        with pytest.raises(DataError, match="claim to hold 2 rows, 1000"):
            read(path)


def test_parquet_of_an_honest_size_is_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", np.random.default_rng(0).integers(0, 2, 100_000))
    assert count(path) == ParquetSource([path]).rows == 100_000


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def lying(path: Path, claim: int) -> Path:
    """Let a table's only page claim another size, whose digits take the place of the page's last bytes."""
    column, content = pq.ParquetFile(path).metadata.row_group(0).column(0), path.read_bytes()
    start, end = column.data_page_offset, column.data_page_offset + column.total_compressed_size
    number = rb"([\x80-\xff]*[\x00-\x7f])"
    sizes = re.match(rb"\x15\x00\x15" + number + rb"\x15" + number, content[start:end], re.S)
    assert sizes is not None
    packed = sum((byte & 127) << 7 * place for place, byte in enumerate(sizes[2])) // 2
    unpacked = varint(2 * claim)
    head = b"\x15\x00\x15" + unpacked + b"\x15" + varint(2 * (packed - len(unpacked) + len(sizes[1])))
    path.write_bytes(content[:start] + (head + content[start + sizes.end() : end])[: end - start] + content[end:])
    return path


@pytest.mark.parametrize("codec", ["snappy", "zstd", "gzip"])
def test_a_page_that_claims_2_gb_takes_no_memory(codec: str, tmp_path: Path) -> None:
    column = [f"x{number}" for number in range(2000)]
    path = parquet(tmp_path / "t.parquet", column, compression=codec, use_dictionary=False)
    claim = 2**31 - 8
    lying(path, claim)
    for read in (count, lambda file: ParquetSource([file])):
        with pytest.raises(DataError, match=rf"pages of its \d+ bytes claim to unpack to {claim}, as no table does"):
            read(path)
    assert pa.default_memory_pool().max_memory() < claim


def test_a_page_without_a_header_is_told(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", np.arange(5))
    content = bytearray(path.read_bytes())
    content[4] = 0xFB  # a map, which no header has
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t.parquet: expected a Parquet file, found a page without a header, at 4"):
        count(path)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("repeated", [True, False])
def test_pages_of_every_kind_are_read(version: str, repeated: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    numbers = np.arange(5000) % 700
    table = pa.table({"a": numbers, "b": numbers % 2 == 0, "c": numbers / 3, "d": [f"{n} é" for n in numbers]})
    options = {"data_page_version": version, "use_dictionary": repeated, "write_page_checksum": repeated}
    pq.write_table(table, path, data_page_size=500, row_group_size=2000, write_statistics=not repeated, **options)
    assert ParquetSource([path]).rows == 5000
    pq.write_table(table.slice(0, 0), path, **options)
    assert ParquetSource([path]).rows == 0


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(100_001)]
    path = tmp_path / "t.csv"
    path.write_text(",".join(names) + "\n")
    with pytest.raises(DataError, match="at most 100000 columns, found 100001"):
        TableFiles(path).names()
