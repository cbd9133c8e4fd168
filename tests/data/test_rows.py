from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from mtl_lightning.data import BatchRows, TensorRows
from mtl_lightning.data.rows import PADDING, without_labels
from mtl_lightning.types import ConfigurationError
from tests.data.tiny import NoisyRows


def table() -> TensorRows:
    inputs = {"numeric": torch.arange(12.0).reshape(6, 2), "categorical": torch.arange(6)[:, None]}
    targets = {"price": torch.arange(6.0), "size": torch.arange(12.0).reshape(6, 2), "kind": torch.arange(6) % 3}
    return TensorRows(inputs, targets, {"price": torch.arange(6.0), "kind": torch.ones(6)})


def test_a_batch_of_tensors_holds_the_rows_asked_for_in_their_order() -> None:
    batch = table().__getitems__([4, 1, 1])
    assert batch["inputs"]["numeric"].tolist() == [[8, 9], [2, 3], [2, 3]]
    assert batch["inputs"]["categorical"].tolist() == [[4], [1], [1]]
    assert batch["targets"]["price"].tolist() == [4, 1, 1]
    assert isinstance(batch["weights"], dict)
    assert batch["weights"]["price"].tolist() == [4, 1, 1]
    assert table()[4]["targets"]["size"].tolist() == [8, 9]
    assert len(table()) == 6


def test_tensors_of_different_lengths_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"same number of rows.*'inputs': 6.*'targets\.a': 5"):
        TensorRows(torch.zeros(6, 1), {"a": torch.zeros(5)})


def test_padding_is_row_0_without_labels() -> None:
    batch = BatchRows(table(), missing={"price": -100, "size": -100, "kind": 255}).__getitems__([3, PADDING])
    assert batch["inputs"]["categorical"].tolist() == [[3], [0]]
    assert batch["targets"]["price"].isnan().tolist() == [False, True]
    assert batch["targets"]["size"].isnan().tolist() == [[False, False], [True, True]]
    assert batch["targets"]["kind"].tolist() == [0, 255]


def test_padding_leaves_the_stored_rows_alone() -> None:
    rows = table()
    BatchRows(rows).__getitems__([PADDING, 0])
    assert rows[0]["targets"]["price"] == 0


def test_every_target_is_kept_unless_tasks_are_named() -> None:
    assert {*BatchRows(table()).__getitems__([0])["targets"]} == {"price", "size", "kind"}
    batch = BatchRows(table(), missing={"kind": -100}).__getitems__([0])
    assert {*batch["targets"]} == {"kind"}
    assert {*batch["weights"]} == {"kind"}


def test_weights_for_all_tasks_are_kept() -> None:
    rows = TensorRows(torch.zeros(3, 1), {"a": torch.zeros(3), "b": torch.zeros(3)}, torch.ones(3))
    assert torch.equal(BatchRows(rows, missing={"a": -100}).__getitems__([0, 1])["weights"], torch.ones(2))


def test_rows_without_targets_pass_through() -> None:
    class Inputs(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, row: int) -> dict[str, Any]:
            return {"inputs": torch.tensor([row])}

    batch = BatchRows(Inputs(), missing={"a": -100}).__getitems__([2, PADDING])
    assert {*batch} == {"inputs"}
    assert batch["inputs"].tolist() == [[2], [0]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
def test_a_missing_integer_label_survives_its_dtype(dtype: torch.dtype) -> None:
    target = torch.tensor([1, 0, 1]).to(dtype)
    blank = without_labels(target, torch.tensor([False, True, False]))
    assert blank.tolist() == [1, -100, 1]
    assert target.tolist() == [1, 0, 1]


def test_a_dense_target_is_blanked_whole() -> None:
    blank = without_labels(torch.zeros(2, 3, 4, dtype=torch.int64), torch.tensor([True, False]), missing=255)
    assert (blank[0] == 255).all()
    assert (blank[1] == 0).all()


def test_random_numbers_are_a_function_of_seed_epoch_and_first_row() -> None:
    def noise(rows: BatchRows, *indices: int) -> Tensor:
        found: Tensor = rows.__getitems__(indices)["noise"]
        return found

    rows = BatchRows(NoisyRows(9), seed=1)
    first = noise(rows, 3, 4)
    before = torch.get_rng_state()
    assert torch.equal(noise(rows, 3, 4), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(noise(rows, 4, 3), first)
    assert not torch.equal(noise(BatchRows(NoisyRows(9), seed=2), 3, 4), first)
    rows.set_epoch(1)
    later = noise(rows, 3, 4)
    assert (later != first).all()  # Python's, NumPy's and torch's numbers alike
    rows.set_epoch(0)
    assert torch.equal(noise(rows, 3, 4), first)


def test_a_dataset_that_fetches_several_rows_at_once_may_return_a_list() -> None:
    class Listed(NoisyRows):
        def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
            return [self[row] for row in rows]

    assert BatchRows(Listed(5)).__getitems__([4, 2])["inputs"].tolist() == [[4.0], [2.0]]


def test_a_collate_function_of_ones_own_is_used() -> None:
    def collate(rows: list[Any]) -> dict[str, Any]:
        return {"inputs": torch.stack([row["inputs"] for row in rows]).sum(0), "targets": {}}

    assert BatchRows(NoisyRows(5), collate=collate).__getitems__([4, 2])["inputs"].tolist() == [6.0]


def test_rows_that_are_no_dicts_are_refused() -> None:
    class Pairs(NoisyRows):
        def __getitem__(self, row: int) -> Any:
            return torch.zeros(1), torch.zeros(1)

    with pytest.raises(ConfigurationError, match=r"Pairs: expected rows .*'inputs'.* found a batch of type list"):
        BatchRows(Pairs(3)).__getitems__([0])


def test_an_iterable_dataset_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([])

    with pytest.raises(ConfigurationError, match=r"Expected a map dataset.*Stream"):
        BatchRows(Stream())
