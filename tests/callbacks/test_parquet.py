"""Columns of a batch, a file that grows, and the parts of several processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from mtl_lightning.callbacks.parquet import KEY, Part, columns_of, merge, record_batch
from mtl_lightning.types import ConfigurationError


def numbers(first: int, rows: int) -> Any:
    return record_batch({"a": torch.arange(first, first + rows)})


# -------------------------------------------------------------------------------------------------------------- columns
@pytest.mark.parametrize(
    ("prediction", "names"),
    [
        pytest.param({"a": 1, "b": 2}, ["a", "b"], id="tensors"),
        pytest.param({"a": {"probability": 1, "label": 2}}, ["a", "a.probability"], id="label-first"),
        pytest.param({"a": {"mean": 1, "std": 2}}, ["a", "a.std"], id="first-if-no-label"),
        pytest.param({"b": {"label": 1}, "a": 2}, ["b", "a"], id="order-of-tasks"),
    ],
)
def test_columns_are_named_by_task_and_key(prediction: dict[str, Any], names: list[str]) -> None:
    def tensors(value: Any) -> Any:
        return {k: tensors(v) for k, v in value.items()} if isinstance(value, dict) else torch.tensor([value])

    columns = columns_of(tensors(prediction))
    assert list(columns) == names


def test_the_label_is_the_column_with_the_tasks_name() -> None:
    columns = columns_of({"a": {"probability": torch.tensor([0.5]), "label": torch.tensor([7])}})
    assert {name: column.item() for name, column in columns.items()} == {"a": 7, "a.probability": 0.5}


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (torch.tensor([1, 2]), "int64"),
        (torch.tensor([1, 2], dtype=torch.uint8), "uint8"),
        (torch.tensor([True, False]), "bool"),
        (torch.tensor([1.5, 2.5]), "float"),
        (torch.tensor([1.5, 2.5], dtype=torch.float64), "double"),
        (torch.tensor([1.5, 2.5], dtype=torch.float16), "float"),
        (torch.tensor([1.5, 2.5], dtype=torch.bfloat16), "float"),
        (torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "fixed_size_list<item: float>[3]"),
        (torch.tensor([[1], [2]]), "fixed_size_list<item: int64>[1]"),
        (torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]).T, "fixed_size_list<item: float>[3]"),
    ],
)
def test_a_column_keeps_type_and_values(column: Tensor, dtype: str) -> None:
    batch = record_batch({"a": column})
    assert str(batch.schema.field("a").type) == dtype
    assert batch.to_pydict() == {"a": column.tolist()}


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 4), ()])
def test_what_is_no_table_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"Column 'depth': expected predictions of shape \(B,\) or \(B, D\)"):
        record_batch({"a": torch.zeros(2), "depth": torch.zeros(shape)})


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"found {'a': 2, 'b': 3} rows"):
        record_batch({"a": torch.zeros(2), "b": torch.zeros(3)})


# ---------------------------------------------------------------------------------------------------- a file that grows
def test_a_part_holds_its_batches_in_order_with_the_metadata(tmp_path: Path) -> None:
    part = Part(tmp_path / "a.parquet", {"units": {"a": "m"}})
    for first in (0, 5, 10):
        part.write(numbers(first, 5))
    part.close()
    table = pq.read_table(part.path)
    assert table["a"].to_pylist() == list(range(15))
    assert json.loads(table.schema.metadata[KEY]) == {"units": {"a": "m"}}
    assert part.rows == 15


def test_small_batches_share_a_row_group_and_large_ones_are_written_while_they_come(tmp_path: Path) -> None:
    part = Part(tmp_path / "a.parquet", {})
    for _ in range(100):
        part.write(record_batch({"a": torch.zeros(10)}))
    for _ in range(6):
        part.write(record_batch({"a": torch.rand(2**20)}))  # 4 MiB each
    assert part.path.stat().st_size > 2**24 * 0.9  # before it is closed
    part.close()
    rows = [pq.ParquetFile(part.path).metadata.row_group(i).num_rows for i in range(2)]
    assert rows == [1000 + 4 * 2**20, 2 * 2**20]


def test_a_batch_with_other_columns_is_refused(tmp_path: Path) -> None:
    part = Part(tmp_path / "a.parquet", {})
    part.write(record_batch({"a": torch.zeros(2, 3)}))
    with pytest.raises(ConfigurationError, match=r"'fixed_size_list<item: float>\[3\]'}, found .*\[4\]'}"):
        part.write(record_batch({"a": torch.zeros(2, 4)}))
    part.discard()
    assert not part.path.exists()


# ------------------------------------------------------------------------------------------- parts of several processes
def parts_of(directory: Path, shares: Sequence[Sequence[int]], group: int = 2) -> list[Path | None]:
    """Write a part for each rank, in row groups of a few rows; none for a rank without rows."""
    paths: list[Path | None] = []
    for rank, rows in enumerate(shares):
        paths.append(directory / f"{rank}.parquet" if rows else None)
        table = pa.table({"row": rows, "twice": [[float(r), 2.0 * r] for r in rows]}).replace_schema_metadata(
            {KEY: "1"}
        )
        if rows:
            pq.write_table(table, paths[-1], row_group_size=group)
    return paths


@pytest.mark.parametrize("group", [1, 3, 100])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 7, 12])
@pytest.mark.parametrize("padded", [True, False])
def test_parts_are_interleaved(tmp_path: Path, rows: int, world: int, group: int, padded: bool) -> None:
    """With uneven tails, ranks without a row, and rows made up (99) so that all ranks have as many."""
    shares = [list(range(rank, rows, world)) for rank in range(world)]
    if padded:
        shares = [share + [99] * (-(-rows // world) - len(share)) for share in shares]
    merge(parts_of(tmp_path, shares, group), tmp_path / "all.parquet", rows)
    table = pq.read_table(tmp_path / "all.parquet")
    assert table["row"].to_pylist() == list(range(rows))
    assert table["twice"].to_pylist() == [[float(r), 2.0 * r] for r in range(rows)]
    assert table.schema.metadata[KEY] == b"1"


def test_a_prediction_that_was_cut_short_is_complete_as_far_as_it_went(tmp_path: Path) -> None:
    """Two batches of 2 rows on each of 2 ranks, of 100 rows."""
    merge(parts_of(tmp_path, [[0, 2, 4, 6], [1, 3, 5, 7]]), tmp_path / "all.parquet", 100)
    assert pq.read_table(tmp_path / "all.parquet")["row"].to_pylist() == list(range(8))


@pytest.mark.parametrize(
    ("shares", "rows"),
    [
        pytest.param([[0, 1, 2, 3], [0, 1, 2, 3]], 4, id="every-rank-had-all-rows"),
        pytest.param([[0], [1, 3]], 4, id="a-row-is-missing-before-others"),
        pytest.param([[], [1]], 2, id="a-rank-is-missing"),
    ],
)
def test_rows_that_were_not_shared_out_in_turn_are_refused(tmp_path: Path, shares: list[list[int]], rows: int) -> None:
    counts = [len(share) for share in shares]
    with pytest.raises(ConfigurationError, match=rf"of {rows}, found parts of \[{counts[0]}, {counts[1]}\] rows"):
        merge(parts_of(tmp_path, shares), tmp_path / "all.parquet", rows)
    assert not (tmp_path / "all.parquet").exists()
