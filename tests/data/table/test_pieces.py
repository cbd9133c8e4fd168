from __future__ import annotations

import pickle
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_lightning.data import TableData
from mtl_lightning.data.table.pieces import ReadOnce
from mtl_lightning.encoding import reader
from mtl_lightning.encoding.reader import TableFiles
from mtl_lightning.nested import leaves


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the rows of each file are read; in pieces of a few rows."""
    found: Counter[str] = Counter()
    batches = TableFiles._batches

    def counted(self: TableFiles, file: Path, columns: Any) -> Any:
        found[file.stem] += 1
        return batches(self, file, columns)

    monkeypatch.setattr(TableFiles, "_batches", counted)
    monkeypatch.setattr(reader, "_BLOCK", 256)
    return found


def files(folder: Path) -> dict[str, str]:
    for name, rows in {"train": 90, "val": 20}.items():
        lines = (f"{i % 7}.25,v{i % 9},{i % 2},{'x' if i % 3 else ''}\n" for i in range(rows))
        (folder / f"{name}.csv").write_text("a,b,y,c\n" + "".join(lines))
    return {name: str(folder / f"{name}.csv") for name in ("train", "val")}


def made(paths: dict[str, Any], most: int, **options: Any) -> TableData:
    data = TableData(**paths, targets=["y"], batch_size=500, **options)
    data._read_once.most = most
    return data


def rows(data: TableData) -> list[torch.Tensor]:
    (train,), (val,) = data.train_dataloader(), data.val_dataloader()
    return [tensor for batch in (train, val) for _, tensor in leaves(batch)]


DECLARED = {"numeric": ["a"], "categorical": ["b", "c"]}


@pytest.mark.parametrize("as_one", [False, True])
@pytest.mark.parametrize("most", [1 << 20, 1500, 0])
def test_training_rows_that_were_read_to_fit_the_schema_are_encoded(
    tmp_path: Path, reads: Counter[str], most: int, as_one: bool
) -> None:
    paths: dict[str, Any] = {"path": files(tmp_path)["train"]} if as_one else files(tmp_path)
    data = made(paths, most, **DECLARED)
    found = rows(data)
    again = most < 1 << 20  # too many bytes to be kept
    # Where one table is divided, its columns for that are read first.
    assert dict(reads) == ({"train": 2 + again} if as_one else {"train": 1 + again, "val": 1})
    assert not data._read_once._pieces
    for tensor, expected in zip(found, rows(made(paths, 0, **DECLARED)), strict=True):
        assert torch.equal(tensor, expected) or torch.equal(tensor.isnan(), expected.isnan())


def test_columns_that_were_read_in_another_way_are_read_again(tmp_path: Path, reads: Counter[str]) -> None:
    rows(made(files(tmp_path), 1 << 20))  # `a` as text, to see what it is, and then as numbers
    assert dict(reads) == {"train": 2, "val": 1}


def test_copies_begin_empty(tmp_path: Path) -> None:
    data = made(files(tmp_path), 1 << 20, **DECLARED)
    assert data.schema["rows"] == 90
    assert data._read_once._pieces
    for copied in (deepcopy(data._read_once), pickle.loads(pickle.dumps(data._read_once))):
        assert isinstance(copied, ReadOnce)
        assert (copied.most, copied._pieces, copied.has("train", {})) == (1 << 20, [], False)
