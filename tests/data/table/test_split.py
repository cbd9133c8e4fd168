from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mtl_lightning.data import TableSplit
from mtl_lightning.encoding.cells import CellError
from mtl_lightning.types import ConfigurationError


def sizes(splits: Any) -> list[int]:
    """How many rows are in training, validation and test."""
    return [int((splits == number).sum()) for number in range(3)]


def test_fractions_are_met_to_a_row_and_follow_the_seed() -> None:
    table = pa.table({"x": np.arange(103)})
    found = [TableSplit(fractions=(0.7, 0.2, 0.1)).assign(table, seed) for seed in (0, 0, 1)]
    assert [sizes(splits) for splits in found] == [[72, 21, 10]] * 3
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


def test_no_group_is_in_two_splits() -> None:
    users = np.random.default_rng(0).integers(0, 300, 3000).astype(str)
    splits = TableSplit(group="user").assign(pa.table({"user": users}), 0)
    assert max(len(set(splits[users == user])) for user in set(users)) == 1
    np.testing.assert_allclose(sizes(splits), [2400, 300, 300], atol=30)


def test_rows_without_a_group_stand_alone() -> None:
    splits = TableSplit(group="user").assign(pa.table({"user": ["a", "b"] * 50 + [None] * 900}), 0)
    assert len(set(splits[:100:2])) == len(set(splits[1:100:2])) == 1
    assert min(sizes(splits[100:])) > 50


@pytest.mark.parametrize("group", [None, "pair"])
def test_every_split_has_the_same_share_of_a_rare_class(group: str | None) -> None:
    rare = (np.arange(2000) // 2 % 50 == 0).astype(int)  # 2 %, in pairs
    table = pa.table({"y": rare, "pair": np.arange(2000) // 2})
    splits = TableSplit(stratify="y", group=group).assign(table, 0)
    assert [int(rare[splits == number].sum()) for number in range(3)] == [32, 4, 4]


@pytest.mark.parametrize(
    "times",
    [
        np.arange(100)[::-1] * 3.5,
        np.datetime64("2024-01-01") + np.arange(100)[::-1],
        [f"2024-01-01T{i // 60:02d}:{i % 60:02d}:00" for i in range(100)][::-1],
        [str(i) for i in range(100)][::-1],
    ],
)
def test_later_rows_are_for_later_splits(times: Any) -> None:
    splits = TableSplit(time="t").assign(pa.table({"t": times}), 0)
    assert splits.tolist() == [2] * 10 + [1] * 10 + [0] * 80


def test_rows_of_the_same_time_stay_together() -> None:
    splits = TableSplit(time="t", fractions=(0.5, 0.0, 0.5)).assign(pa.table({"t": [1, 2, 2, 2]}), 0)
    assert splits.tolist() == [0, 2, 2, 2]


def test_bounds_of_time() -> None:
    table = pa.table({"t": ["2024-01-01", "2024-02-01", "2024-02-28T23:00", "2024-03-01", "2023-01-01"]})
    split = TableSplit(time="t", bounds=["2024-02-01", "2024-03-01"])
    assert split.assign(table, 0).tolist() == [0, 1, 1, 2, 0]
    assert TableSplit(time="t", bounds=[2, 3]).assign(pa.table({"t": [1, 2, 3, 4]}), 0).tolist() == [0, 1, 2, 2]


def test_a_column_names_the_splits() -> None:
    table = pa.table({"fold": ["train", "Valid", None, "test", "dev", ""]})
    assert TableSplit(column="fold").assign(table, 0).tolist() == [0, 1, -1, 2, 1, -1]
    with pytest.raises(CellError, match="'train', 'val' or 'test', found 'third'") as caught:
        TableSplit(column="fold").assign(pa.table({"fold": ["train", "third"]}), 0)
    assert caught.value.row == 1


@pytest.mark.parametrize(
    ("times", "row", "message"), [(["2024-01-01", "soon"], 1, "found 'soon'"), ([1.0, None], 1, "a time in every row")]
)
def test_a_time_that_is_none_is_named(times: list[Any], row: int, message: str) -> None:
    with pytest.raises(CellError, match=message) as caught:
        TableSplit(time="t").assign(pa.table({"t": times}), 0)
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fractions": (0.8, 0.1, 0.2)}, "sum to 1"),
        ({"fractions": (1.2, -0.1, -0.1)}, "at least 0 and at most 1, found 1.2"),
        ({"column": "a", "time": "b"}, "one way to split, found column and time"),
        ({"time": "a", "group": "b"}, "one way to split, found time and group"),
        ({"bounds": [1, 2]}, "together with `time`"),
        ({"time": "a", "bounds": [1]}, "the two times"),
        ({"time": "a", "bounds": ["2024-02-01", "2024-01-01"]}, "in their order"),
        ({"time": "a", "bounds": ["soon", "later"]}, "two times"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TableSplit(**wrong)


def test_groups_and_strata_fall_alike_however_they_are_stored() -> None:
    towns = pa.array([f"t{(7 * i) % 23}" if i % 11 else None for i in range(300)])
    backwards = pa.DictionaryArray.from_arrays(
        pc.index_in(towns, pa.array([f"t{i}" for i in range(30, -1, -1)])),
        pa.array([f"t{i}" for i in range(30, -1, -1)]),
    )
    for split in (TableSplit(group="town"), TableSplit(stratify="town")):
        one, other = (split.assign(pa.table({"town": column}), seed=3) for column in (towns, backwards))
        np.testing.assert_array_equal(one, other)
        assert set(one.tolist()) == {0, 1, 2}
