"""Cityscapes on made files in its layout: what is its own, beside what it shares with NYUv2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl_lightning.data import Cityscapes
from mtl_lightning.data.datasets.dense.augmentation import Disparity, ScaleCropFlip
from mtl_lightning.types import DataError
from tests.data.make_dense import write_cityscapes
from tests.data.shared import SHARED

FIXTURES = SHARED / "fixtures" / "cityscapes"


def stored(root: Path, kind: str) -> np.ndarray[Any, Any]:
    return np.stack([np.load(root / "val" / kind / f"{i}.npy") for i in range(3)])


def test_made_files_are_like_the_fixtures(tmp_path: Path) -> None:
    if not FIXTURES.is_dir():
        pytest.skip("the fixtures are not beside the repository")
    root = write_cityscapes(tmp_path, sides=(16, 32))
    for split in ("train", "val"):
        assert {*os.listdir(root / split)} == {*os.listdir(FIXTURES / split)}
        for kind in os.listdir(root / split):
            made, given = (np.load(folder / split / kind / "0.npy") for folder in (root, FIXTURES))
            assert (made.shape, made.dtype) == (given.shape, given.dtype)
            limits = {"image": (0, 1), "depth": (0, 0.4922), "label_7": (-1, 6), "label_19": (-1, 18)}[kind]
            assert all(limits[0] <= array.min() <= array.max() <= limits[1] for array in (made, given))
    for labels, classes in ((None, 7), ("label_19", 19)):
        data = Cityscapes(FIXTURES, labels=labels)
        assert data.tasks["segmentation"].output_size == classes
        for batch in (*data.train_dataloader(), *data.val_dataloader()):
            for name, task in data.tasks.items():
                task.check(batch["targets"][name])


@pytest.mark.parametrize(
    ("present", "asked", "read", "classes"),
    [
        (("label_7", "label_19"), None, "label_7", 7),
        (("label_7", "label_19"), "label_19", "label_19", 19),
        (("label",), None, "label", 7),
        (("label", "label_7"), None, "label_7", 7),
        (("label", "label_7"), "label", "label", 7),
    ],
)
def test_the_folder_of_the_classes(
    tmp_path: Path, present: tuple[str, ...], asked: str | None, read: str, classes: int
) -> None:
    root = write_cityscapes(tmp_path, labels=present)
    data = Cityscapes(root, labels=asked, batch_size=3)
    assert data.tasks["segmentation"].output_size == classes
    (batch,) = data.val_dataloader()
    np.testing.assert_array_equal(batch["targets"]["segmentation"], stored(root, read))


def test_without_such_a_folder_the_choice_is_shown(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, labels=("label_19",))
    with pytest.raises(DataError, match=r"train: expected class maps in label_7 or label, found no such folder. Name"):
        _ = Cityscapes(root).schema
    with pytest.raises(DataError, match=r"expected class maps in label_3, found no such folder"):
        _ = Cityscapes(root, labels="label_3").schema
    assert list(Cityscapes(root, tasks={"segmentation": None}).tasks) == ["disparity"]


def test_the_folder_goes_with_a_checkpoint(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, labels=("label",))
    schema = Cityscapes(root).schema
    later = Cityscapes(write_cityscapes(tmp_path / "later"))
    later.restore_schema(schema)
    with pytest.raises(DataError, match=r"val/label/0\.npy: expected a file, found none"):
        next(iter(later.val_dataloader()))


def test_what_looks_larger_has_a_larger_disparity(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path)
    data = Cityscapes(root, batch_size=10)
    assert data.tasks["disparity"].spec.units == "disparity (inverse depth), normalised"
    (plain,) = Cityscapes(root, augment=False, batch_size=10).train_dataloader()
    (batch,) = data.train_dataloader()
    ratios = set()
    for before, after in zip(plain["targets"]["disparity"], batch["targets"]["disparity"], strict=True):
        values = before[before > 0]
        for scale in (1.0, 1.2, 1.5):
            if torch.isin((after[after > 0] / scale * 1e4).round(), (values * 1e4).round()).float().mean() > 0.99:
                ratios.add(scale)
    assert ratios == {1.0, 1.2, 1.5}
    assert isinstance(data.layers("label_7")["disparity"][0].kind, Disparity)
    assert isinstance(data.augmentation, ScaleCropFlip)


def test_the_message_without_files(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"val/image of Cityscapes, found neither. .* open https://www.dropbox.com/sh/g"
    ):
        Cityscapes(tmp_path).prepare_data()
