from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mtl_lightning.data.streaming.rows import Block, StreamedRows, Stride
from mtl_lightning.data.streaming.scan import remembered, scan
from mtl_lightning.data.streaming.source import ParquetSource
from mtl_lightning.data.streaming.split import InSplit, StreamSplit
from mtl_lightning.data.table.split import TableSplit
from mtl_lightning.encoding.cells import CellError, numbers
from mtl_lightning.types import Batch, ConfigurationError, DataError

ROWS = 4_000


def source_of(path: Path, buffer: int = 300, **columns: Any) -> ParquetSource:
    number = np.arange(ROWS)
    table = {"row": number, "user": [f"u{row % 97}" for row in number], "time": number * 1.0, **columns}
    pq.write_table(pa.table(table), path / "a.parquet", row_group_size=1000)
    return ParquetSource([path / "a.parquet"], buffer_rows=buffer)


def assigned(source: ParquetSource, split: StreamSplit) -> np.ndarray[Any, np.dtype[np.int8]]:
    return np.concatenate([split(source.read(part), part) for part in source.slices])


def test_by_chance_the_shares_are_nearly_met_and_do_not_depend_on_the_slices(tmp_path: Path) -> None:
    split = StreamSplit(TableSplit(fractions=(0.7, 0.2, 0.1)), seed=0)
    found = assigned(source_of(tmp_path), split)
    shares = np.bincount(found) / ROWS
    assert np.abs(shares - [0.7, 0.2, 0.1]).max() < 0.03  # four standard deviations
    assert np.array_equal(found, assigned(source_of(tmp_path, buffer=77), split))
    assert np.mean(found != assigned(source_of(tmp_path), StreamSplit(split.split, seed=1))) > 0.3


def test_no_group_is_in_two_splits_and_rows_without_one_stand_alone(tmp_path: Path) -> None:
    users = [None if row % 4 == 0 else f"u{row % 97}" for row in range(ROWS)]
    source = source_of(tmp_path, user=users)
    found = assigned(source, StreamSplit(TableSplit(group="user"), seed=2))
    places: dict[str | None, set[int]] = {}
    for user, split in zip(users, found, strict=True):
        places.setdefault(user, set()).add(int(split))
    assert places.pop(None) == {0, 1, 2}
    assert all(len(splits) == 1 for splits in places.values())
    assert {split for splits in places.values() for split in splits} == {0, 1, 2}


def test_a_column_and_bounds_of_time_mean_the_same_as_in_memory(tmp_path: Path) -> None:
    folds = [("train", "dev", "test", None)[row % 4] for row in range(ROWS)]
    source = source_of(tmp_path, fold=folds)
    whole = pq.read_table(source.paths[0])
    for split in (TableSplit(column="fold"), TableSplit(time="time", bounds=[1000.0, 3500])):
        assert np.array_equal(assigned(source, StreamSplit(split, 0)), split.assign(whole, 0))


@pytest.mark.parametrize(
    ("split", "message"),
    [(TableSplit(stratify="user"), "`stratify: user`.*Leave it out"), (TableSplit(time="time"), "Give as `bounds`")],
)
def test_splits_that_take_all_rows_at_once_are_refused(split: TableSplit, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StreamSplit(split, 0)


def test_one_pass_counts_the_splits_and_shows_the_training_rows_alone(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    split = StreamSplit(TableSplit(), seed=0)
    seen: list[int] = []
    counts = scan(source, split, lambda table, _: seen.extend(table.column("row").to_pylist()))
    found = assigned(source, split)
    assert seen == np.flatnonzero(found == 0).tolist()
    assert [sum(of_split) for of_split in counts] == np.bincount(found).tolist()
    rows = StreamedRows(source, counted, select=pickle.loads(pickle.dumps(InSplit(split, 1))), counts=counts[1])
    places = [place for place, count in enumerate(rows.counts) if count]
    block = Block(tuple(Stride(place, 0, rows.counts[place], 1) for place in places))
    assert rows[block]["inputs"].tolist() == np.flatnonzero(found == 1).tolist()


def test_without_a_split_all_rows_are_for_training_and_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path)
    monkeypatch.setattr(ParquetSource, "read", lambda *_: pytest.fail("read"))
    assert scan(source) == [[part.rows for part in source.slices], *[[0] * len(source.slices)] * 2]
    assert sum(map(sum, scan(source, StreamSplit(TableSplit(), 0)))) == ROWS  # a row's number is enough


def counted(table: Any) -> Batch:
    return {"inputs": torch.tensor(numbers(table.column("row"))), "targets": {}}


def fit(table: Any, _: Any) -> None:
    counted(table)


def test_a_cell_that_cannot_be_read_is_named_by_file_and_row(tmp_path: Path) -> None:
    source = source_of(tmp_path, row=[*map(str, range(2345)), "x", *map(str, range(2346, ROWS))])
    with pytest.raises(DataError, match=r"a\.parquet, row 2346: expected a number, found 'x'"):
        scan(source, None, fit)
    rows = StreamedRows(source, counted)
    strides = tuple(Stride(place, start, 300, 1) for place, start in ((0, 290), (9, 30)))  # rows 290-299, 2330-2599
    with pytest.raises(DataError, match=r"a\.parquet, row 2346: expected a number, found 'x'"):
        rows[Block(strides)]

    def whole_column(table: Any) -> Batch:
        raise CellError("column 'row': expected numbers, found binary")

    with pytest.raises(DataError, match=r"a\.parquet, row group 0, rows 0-299: column 'row'"):
        StreamedRows(source, whole_column)[Block((Stride(0, 0, 1, 1),))]


def test_files_that_change_while_they_are_read_are_noticed(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    rows = StreamedRows(
        source, counted, select=InSplit(StreamSplit(TableSplit(), 0), 0), counts=[5] * len(source.slices)
    )
    with pytest.raises(DataError, match="expected 5 rows of this split, as counted before, found 2"):
        rows[Block((Stride(0, 0, 5, 1),))]


def test_what_was_found_is_remembered_until_a_file_or_a_setting_changes(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"counts": [[1, 2], []], "mean": 0.1}

    folder = tmp_path / "cache"
    first = remembered(folder, {"seed": 0}, source.paths, make)
    assert remembered(folder, {"seed": 0}, source.paths, make) == first == make()
    assert len(made) == 2
    remembered(folder, {"seed": 1}, source.paths, make)
    source_of(tmp_path, another=[0] * ROWS)
    remembered(folder, {"seed": 0}, source.paths, make)
    remembered(None, {"seed": 0}, source.paths, make)
    assert len(made) == 5
    assert len([*folder.glob("*.json")]) == 3
    assert not [*folder.glob("*.part")]
