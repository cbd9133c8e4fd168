"""Files as record batches, and errors that say where."""

from __future__ import annotations

import gzip
import re
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl_lightning.encoding.reader import As, TableFiles, find_files
from mtl_lightning.types import ConfigurationError, DataError


def read(files: TableFiles, **columns: As) -> list[dict[str, Any]]:
    return [row for piece in files.pieces(columns) for row in piece.rows.to_pylist()]


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    expected = [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": ""}]
    text = ' a,b\n1,x\n2,""\n'
    pq.write_table(pa.table({"b": ["x", ""], "a": [1.0, 2.0]}), tmp_path / "t.parquet")
    (tmp_path / "t.csv.zst").write_bytes(pa.compress(text.encode(), "zstd", asbytes=True))
    for path in [
        written(tmp_path / "t.csv", text),
        written(tmp_path / "t.csv.gz", gzip.compress(text.encode())),
        written(tmp_path / "t.tsv", text.replace(",", "\t")),
        written(tmp_path / "t.any", "\ufeff" + text),
        tmp_path / "t.csv.zst",
        tmp_path / "t.parquet",
    ]:
        assert read(TableFiles(path), a="number", b="text") == expected, path
    raw = written(tmp_path / "raw.data", "1;x\n2;\n")
    assert read(TableFiles(raw, header=["a", "b"], delimiter=";"), a="number", b="text") == expected


def test_quotes_line_breaks_and_encodings(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", 'a,b\n"x\ny, z",Ü\n'.encode("latin1"))
    assert read(TableFiles(path, encoding="latin1"), a="text", b="text") == [{"a": "x\ny, z", "b": "Ü"}]
    with pytest.raises(DataError, match=r"t.csv: expected a file that can be read to its end.*another `encoding`"):
        read(TableFiles(path), b="text")


def test_missing_spellings_in_columns_of_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "a, b\n?, 1\n 2, ?\n, \n")
    rows = read(TableFiles(path, missing=["?"]), a="number", b="number")
    assert rows == [{"a": None, "b": 1.0}, {"a": 2.0, "b": None}, {"a": None, "b": None}]


def test_folders_patterns_and_lists(tmp_path: Path) -> None:
    names = ["b.csv", "a.csv.gz", "sub/c.parquet", "notes.md", "_SUCCESS", ".hidden.csv"]
    for name in names:
        written(tmp_path / name, "")
    found = [str(path.relative_to(tmp_path)) for path in find_files(tmp_path)]
    assert found == ["a.csv.gz", "b.csv", "sub/c.parquet"]
    assert find_files(str(tmp_path / "*.csv")) == [tmp_path / "b.csv"]
    assert find_files([tmp_path / "b.csv", str(tmp_path / "**" / "*.parquet")]) == [
        tmp_path / "b.csv",
        tmp_path / "sub" / "c.parquet",
    ]
    (tmp_path / "empty").mkdir()
    for nothing in ("nothing.csv", "*.tsv", "empty"):
        with pytest.raises(DataError, match="found none"):
            find_files(str(tmp_path / nothing))
    with pytest.raises(ConfigurationError, match="one character, found '::'"):
        TableFiles(tmp_path, delimiter="::")
    with pytest.raises(ConfigurationError, match="an `encoding` such as utf8 or latin1, found 'utf-99'"):
        TableFiles(tmp_path, encoding="utf-99")


def test_the_files_of_a_folder_may_differ_in_the_order_of_columns_only(tmp_path: Path) -> None:
    written(tmp_path / "1.csv", "a,b\n1,2\n")
    written(tmp_path / "2.csv", "b,a\n4,3\n")
    assert read(TableFiles(tmp_path), a="number", b="number") == [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]
    written(tmp_path / "3.csv", "a,bb\n1,2\n")
    with pytest.raises(DataError, match=r"3.csv: expected a column 'b', found \['a', 'bb'\]. Did you mean 'bb'"):
        read(TableFiles(tmp_path), b="text")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"row 2: expected 2 fields, found 1: '3'"),
        ("a,b\n1,2\n3,4,5\n", r"row 2: expected 2 fields, found 3: '3,4,5'"),
        ("a,b\n1,2\nx,4\n", r"row 2: column 'a': expected a number, found 'x'"),
        ("a,a\n1,2\n", r"columns of different names, found 'a' more than once"),
        ("", r"Empty CSV"),
    ],
)
def test_a_broken_file_is_named_with_the_row(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "t.csv", text)
    with pytest.raises(DataError, match=f"t.csv.*{message}"):
        read(TableFiles(path), a="number")


def test_the_row_is_right_far_into_a_file_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "1,2\n" * 1_500_000 + "1\n")
    pieces = TableFiles(path, header=["a", "b"]).pieces({"a": "number"})
    with pytest.raises(DataError, match=r"t.csv, row 1500001: expected 2 fields, found 1"):
        sum(piece.rows.num_rows for piece in pieces)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.parquet"])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = pa.table({"a": [str(i * i % 7919) for i in range(50_000)]})
    if name == "t.parquet":
        pq.write_table(table, path)
    else:
        written(path, gzip.compress(("a\n" + "\n".join(table["a"].to_pylist())).encode()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{name}: expected a file that can be read to its end.*may be cut short"):
        read(TableFiles(path), a="number")
    with pytest.raises(DataError, match=f"other{name[1:]}: expected a file that can be read"):
        TableFiles(written(tmp_path / f"other{name[1:]}", b"neither")).names()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bz2", "parquet"])
def test_a_file_is_what_its_first_bytes_say(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.csv"
    if kind == "parquet":
        pq.write_table(pa.table({"a": [1.0, 2.0]}), path)
    else:
        with pa.output_stream(path, compression=kind) as file:
            file.write(b"a\n1\n2\n")
    assert read(TableFiles(path), a="number") == [{"a": 1.0}, {"a": 2.0}]


def test_an_archive_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as archive:
        archive.writestr("t.csv", "a\n1\n")
    with pytest.raises(DataError, match=r"t.csv: expected CSV or Parquet, found a ZIP archive"):
        TableFiles(tmp_path / "t.csv").names()


@pytest.mark.parametrize(
    ("name", "text", "delimiter", "remedy"),
    [
        ("t.csv", "x;price\n0,1;100,2\n", None, "';'"),
        ("t.csv", "x\tprice\n1\t2\n", None, r'"\t"'),
        ("t.tsv", "x,price\n1,2\n", None, "','"),
        ("t.csv", "x,price\n1,2\n", ";", "','"),
    ],
)
def test_a_wrong_delimiter_is_told(tmp_path: Path, name: str, text: str, delimiter: str | None, remedy: str) -> None:
    path = written(tmp_path / name, text)
    with pytest.raises(
        DataError, match=rf"{name}: expected columns with .* a single one, 'x.*`delimiter: {re.escape(remedy)}`"
    ):
        TableFiles(path, delimiter=delimiter).names()
