from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl_lightning.data.streaming.source import ParquetSource
from mtl_lightning.types import ConfigurationError, DataError

NARROW = pa.dictionary(pa.int8(), pa.large_string())


def write(path: Path, rows: int = 25, row_group: int = 10) -> Path:
    table = pa.table({"row": range(rows), "kind": [f"k{row % 3}" for row in range(rows)]})
    pq.write_table(table, path, row_group_size=row_group)
    return path


def rows(table: pa.Table) -> list[int]:
    found: list[int] = table.column("row").to_pylist()
    return found


def test_large_row_groups_are_cut_into_slices(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", 4)]
    source = ParquetSource(paths, buffer_rows=4)
    assert source.rows == 29
    assert [tuple(part) for part in source.slices] == [
        *[(0, 0, 0, 4, 0), (0, 0, 4, 4, 4), (0, 0, 8, 2, 8)],
        *[(0, 1, 0, 4, 10), (0, 1, 4, 4, 14), (0, 1, 8, 2, 18)],
        *[(0, 2, 0, 4, 20), (0, 2, 4, 1, 24)],
        (1, 0, 0, 4, 25),
    ]


@pytest.mark.parametrize("step", [1, -1, 5])
def test_slices_are_read_in_any_order(tmp_path: Path, step: int) -> None:
    source = ParquetSource([write(tmp_path / "a.parquet")], buffer_rows=4)
    parts = source.slices[::step] if step < 5 else [source.slices[index * 5 % 8] for index in range(8)]
    for part in parts:
        assert rows(source.read(part)) == list(range(part.first, part.first + part.rows))
        assert rows(source.read(part)) == rows(source.read(part))  # again


def test_columns_and_dictionaries_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    source = ParquetSource([path], columns=["kind", "row"])
    table = source.read(source.slices[0])
    assert table.column_names == source.columns == ["kind", "row"]
    assert pa.types.is_dictionary(table.schema.field("kind").type)
    other = source.only(["row"])
    assert other.slices == source.slices
    assert other.read(other.slices[1]).column_names == ["row"]


def test_files_may_hold_text_and_categories_in_different_ways(tmp_path: Path) -> None:
    text = pa.array(["x", "y", None])
    kinds = [text, text.cast(pa.large_string()), text.dictionary_encode(), text.dictionary_encode().cast(NARROW)]
    numbers = [pa.array([1, 2, 3]), pa.array([1, 2, 3]).dictionary_encode()] * 2
    paths = [tmp_path / f"{place}.parquet" for place in range(4)]
    for path, kind, number in zip(paths, kinds, numbers, strict=True):
        pq.write_table(pa.table({"kind": kind, "number": number}), path)
    source = ParquetSource(paths)
    whole = pa.concat_tables([source.read(part) for part in source.slices])
    assert whole.to_pydict() == {"kind": ["x", "y", None] * 4, "number": [1, 2, 3] * 4}


def test_a_source_goes_to_another_process(tmp_path: Path) -> None:
    source = ParquetSource([write(tmp_path / "a.parquet")], buffer_rows=4)
    source.read(source.slices[0])
    copy = pickle.loads(pickle.dumps(source))
    assert rows(copy.read(copy.slices[1])) == [4, 5, 6, 7]


def test_by_default_a_buffer_takes_the_same_memory_for_wide_and_narrow_tables(tmp_path: Path) -> None:
    pq.write_table(pa.table({f"c{n}": [0.0] for n in range(64)}), tmp_path / "wide.parquet")
    assert ParquetSource([tmp_path / "wide.parquet"]).buffer_rows == 32_768
    pq.write_table(pa.table({f"c{n}": [0.0] for n in range(8)}), tmp_path / "narrow.parquet")
    narrow = ParquetSource([tmp_path / "narrow.parquet"])
    assert narrow.buffer_rows == narrow.only(["c0"]).buffer_rows == 262_144


def test_a_missing_file_a_truncated_one_and_another_format_are_named(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:-20])
    text = tmp_path / "text.parquet"
    text.write_text("row,kind\n1,a\n")
    for path in (cut, text):
        with pytest.raises(DataError, match=f"{path}: expected a Parquet file, found one that cannot be read as such"):
            ParquetSource([good, path])
    with pytest.raises(DataError, match=r"none\.parquet: expected a Parquet file, found no file"):
        ParquetSource([good, tmp_path / "none.parquet"])


def test_a_broken_page_is_named_with_its_row_group(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    source = ParquetSource([path])
    offset = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    broken = bytearray(path.read_bytes())
    broken[offset : offset + 30] = bytes(30)
    path.write_bytes(broken)
    assert rows(source.read(source.slices[0])) == list(range(10))
    with pytest.raises(
        DataError, match=r"a\.parquet: expected 10 rows from row 0 of row group 1, found that they cannot"
    ):
        source.read(source.slices[1])
    assert rows(source.read(source.slices[2])) == list(range(20, 25))  # the next one is not lost


def test_files_with_different_columns_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet")
    other = tmp_path / "b.parquet"
    pq.write_table(pa.table({"row": ["x"], "kind": ["y"]}), other)
    with pytest.raises(
        DataError, match=r"b\.parquet: expected the column 'row' of type int64, as in .*a\.parquet, found"
    ):
        ParquetSource([first, other])
    pq.write_table(pa.table({"kind": ["y"]}), other)
    with pytest.raises(DataError, match=r"b\.parquet: expected a column 'row', found \['kind'\]"):
        ParquetSource([first, other])
    assert ParquetSource([first, other], columns=["kind"]).rows == 26  # others than those read may differ


def test_arguments_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    with pytest.raises(ConfigurationError, match="Expected at least one Parquet file"):
        ParquetSource([])
    with pytest.raises(DataError, match=r"a\.parquet: expected a column 'kin', found .* Did you mean 'kind'"):
        ParquetSource([path], columns=["kin"])
    with pytest.raises(ConfigurationError, match="Expected a buffer of at least 1 row, found buffer_rows=0"):
        ParquetSource([path], buffer_rows=0)
