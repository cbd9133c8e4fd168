from __future__ import annotations

import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.data import CelebA
from mtl_lightning.types import ConfigurationError, DataError, TensorSpec
from tests.data.make_images import ATTRIBUTES, write_celeba
from tests.data.shared import copied, layout
from tests.helpers import fit, make_module

SPLITS: list[Any] = ["train", "val", "test"]
SIZES = (6, 3, 4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_celeba(tmp_path / "celeba", sizes=SIZES)


def whole(data: CelebA, split: Any) -> tuple[Tensor, dict[str, Tensor]]:
    rows = data.rows(split)
    batch = rows.__getitems__(range(len(rows)))
    return batch["inputs"], batch["targets"]


def labels_by_hand(root: Path) -> dict[str, dict[str, int]]:
    """Attributes of each image, read in the plainest way."""
    _, names, *lines = (root / "list_attr_celeba.txt").read_text().splitlines()
    table = {}
    for line in lines:
        name, *values = line.split()
        table[name] = {key: {"-1": 0, "1": 1}[value] for key, value in zip(names.split(), values, strict=True)}
    return table


def test_images_and_labels_are_those_of_the_files(root: Path) -> None:
    data = CelebA(root)
    assert list(data.tasks) == ATTRIBUTES
    assert data.input_spec == TensorSpec((3, 64, 64))
    expected, start = list(labels_by_hand(root).items()), 0
    for split, size in zip(SPLITS, SIZES, strict=True):
        inputs, targets = whole(data, split)
        assert list(targets) == ATTRIBUTES
        mine, start = expected[start : start + size], start + size
        assert len(inputs) == size
        for row, (name, labels) in enumerate(mine):
            assert {key: int(target[row]) for key, target in targets.items()} == labels
            image = Image.open(root / "img_align_celeba" / name).resize((64, 64), Image.Resampling.BILINEAR)
            assert torch.equal(inputs[row], torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)


def test_chosen_attributes_come_in_the_chosen_order(root: Path) -> None:
    data = CelebA(root, attributes=["Young", "Bald"], size=(16, 20), mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
    assert list(data.tasks) == ["Young", "Bald"]
    assert data.input_spec == TensorSpec((3, 16, 20))
    inputs, targets = whole(data, "train")
    assert inputs.shape == (6, 3, 16, 20)
    assert float(inputs.min()) < -3  # (0 - 0.5) / 0.1 is -5
    every = whole(CelebA(root), "train")[1]
    assert list(targets) == ["Young", "Bald"]
    assert all(torch.equal(targets[name], every[name]) for name in targets)


def test_all_layouts_give_the_same(root: Path, tmp_path: Path) -> None:
    folders = write_celeba(tmp_path / "folders", sizes=SIZES, flat=False)
    assert layout(folders) == {
        "Anno/list_attr_celeba.txt",
        "Eval/list_eval_partition.txt",
        "Img/img_align_celeba/000000.jpg",
    }
    expected = whole(CelebA(root), "val")
    for place in (folders, root.parent):  # torchvision's root is the folder above `celeba`
        found = whole(CelebA(place), "val")
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(found[1][name], expected[1][name]) for name in ATTRIBUTES)


def test_the_archive_of_the_images_is_unpacked_once(root: Path) -> None:
    expected = whole(CelebA(root), "test")[0]
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        for path in (root / "img_align_celeba").iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(root / "img_align_celeba")
    assert torch.equal(torch.cat([b["inputs"] for b in CelebA(root).test_dataloader()]), expected)
    (root / "img_align_celeba.zip").unlink()
    assert len(CelebA(root).test_dataloader()) == 1


def test_a_truncated_archive_leaves_no_images_behind(root: Path) -> None:
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        archive.write(root / "list_attr_celeba.txt", "img_align_celeba/000001.jpg")
    content = (root / "img_align_celeba.zip").read_bytes()
    (root / "img_align_celeba.zip").write_bytes(content[:-30])
    shutil.rmtree(root / "img_align_celeba")
    with pytest.raises(DataError, match=r"img_align_celeba.zip: cannot unpack it"):
        CelebA(root).train_dataloader()
    assert not (root / "img_align_celeba").exists()


def test_the_made_files_have_the_layout_of_real_ones(root: Path, tmp_path: Path) -> None:
    real = copied("fixtures/celeba", tmp_path / "real")
    assert layout(root) <= layout(real)
    made, given = ((folder / "list_attr_celeba.txt").read_text().splitlines() for folder in (root, real))
    assert made[1] == given[1]  # the trailing space included
    assert len(made[2]) == len(given[2])
    one, other = (Image.open(folder / "img_align_celeba" / "000001.jpg") for folder in (root, real))
    assert (one.size, one.mode) == (other.size, other.mode)
    data = CelebA(real)
    assert [len(data.rows(split)) for split in SPLITS] == [10, 3, 3]
    assert whole(data, "test")[0].shape == (3, 3, 64, 64)


def test_forty_tasks_train_and_f1_is_recorded_for_each(root: Path) -> None:
    data = CelebA(root, batch_size=3)
    network = partial(SharedBottom, encoder=partial(MLP, hidden=[8]))
    module = make_module(tasks=data.tasks, architecture=network, input_spec=data.input_spec)
    trainer = fit(module, data, precision="32-true", num_sanity_val_steps=0)
    assert trainer.global_step == 2
    assert {f"val/f1/{name}" for name in ATTRIBUTES} <= trainer.callback_metrics.keys()


def changed(path: Path, row: int, old: str, new: str) -> None:
    """Replace something in a row, counted from 1."""
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[row - 1]
    lines[row - 1] = lines[row - 1].replace(old, new, 1)
    path.write_text("".join(lines), errors="surrogateescape")


ATTRIBUTE_DAMAGES = {
    "ragged": (5, " 1", "", r"list_attr_celeba.txt, row 5: expected a name and 40 values, found 39: '000003.jpg "),
    "too many": (5, "\n", " 1\n", r"list_attr_celeba.txt, row 5: expected a name and 40 values, found 41"),
    "out of range": (4, " 1", " 2", r"list_attr_celeba.txt, row 4: expected -1 or 1, found '2' for '.+'"),
    "no text": (4, " 1", " \udcff", r"list_attr_celeba.txt, row 4: expected text in UTF-8"),
    "twice": (5, "000003", "000001", r"row 5: expected every image once, found '000001.jpg' of row 3 again"),
    "an attribute twice": (2, "Young", "Smiling", r"row 2: expected every attribute once, found \['Smiling'\] again"),
    "cut short": (1, "13", "14", r"expected as many images as row 1 says, 14, found 13"),
    "without a split": (6, "000004.jpg", "900004.jpg", r"list_eval_partition.txt: expected the split of every image"),
}


@pytest.mark.parametrize(("row", "old", "new", "message"), ATTRIBUTE_DAMAGES.values(), ids=ATTRIBUTE_DAMAGES)
def test_a_damaged_file_of_attributes_is_named(root: Path, row: int, old: str, new: str, message: str) -> None:
    changed(root / "list_attr_celeba.txt", row, old, new)
    with pytest.raises(DataError, match=message):
        CelebA(root).train_dataloader()


PARTITION_DAMAGES = {
    "out of range": (2, "0\n", "3\n", "row 2: expected a name and 0, 1 or 2, found '000002.jpg 3'"),
    "ragged": (3, " 0\n", "\n", "row 3: expected a name and 0, 1 or 2, found '000003.jpg'"),
    "twice": (3, "000003", "000001", "row 3: expected every image once, found '000001.jpg' again"),
}


@pytest.mark.parametrize(("row", "old", "new", "message"), PARTITION_DAMAGES.values(), ids=PARTITION_DAMAGES)
def test_a_damaged_file_of_splits_is_named(root: Path, row: int, old: str, new: str, message: str) -> None:
    changed(root / "list_eval_partition.txt", row, old, new)
    with pytest.raises(DataError, match=f"list_eval_partition.txt, {message}"):
        CelebA(root).train_dataloader()


def test_marks_of_editors_are_read_over(root: Path) -> None:
    """A byte-order mark, the ends of lines of Windows, blank lines at the end."""
    before = CelebA(root)
    expected = [list(before.tasks), before.rows("train").names.tolist(), before.rows("train").labels.tolist()]
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        path = root / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    after = CelebA(root)
    assert [list(after.tasks), after.rows("train").names.tolist(), after.rows("train").labels.tolist()] == expected


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    data = CelebA(write_celeba(tmp_path, sizes=(3, 0, 2)))
    with pytest.raises(DataError, match=r"list_eval_partition.txt: expected images of the split 'val', number 1"):
        data.val_dataloader()


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"])
def test_missing_files_are_named_with_the_steps_to_get_them(root: Path, name: str) -> None:
    (root / name).rename(root / "elsewhere")
    with pytest.raises(DataError, match=rf"{name}: expected it there, .*licence .* agree to its terms"):
        CelebA(root).train_dataloader()


def test_an_unknown_attribute_is_refused(root: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"expected `attributes` among \['5_o_Clock.*found \['Tall'\]"):
        _ = CelebA(root, attributes=["Young", "Tall"]).tasks
