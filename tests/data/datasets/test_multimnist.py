from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mtl_lightning.data import MultiFashion, MultiMNIST, ResumableLoader
from mtl_lightning.data.datasets.idx import FASHION_MNIST, MNIST, IdxSource
from mtl_lightning.data.datasets.multimnist import overlaid
from mtl_lightning.types import ConfigurationError, DataError, TensorSpec
from tests.data.make_images import idx_bytes, write_mnist
from tests.data.shared import copied, layout

SPLITS: list[Any] = ["train", "val", "test"]
FILES = {f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")}


def mnist(root: Path, cls: type[MultiMNIST] = MultiMNIST, **options: Any) -> MultiMNIST:
    return cls(root, **{"download": False, "val_fraction": 0.25, "batch_size": 8, **options})


def drawn(data: MultiMNIST, split: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """A split's pictures, as bytes again, and its targets."""
    rows = data.rows(split)
    batch = rows.__getitems__(range(len(rows)))
    pixels = (batch["inputs"] * data.std + data.mean) * 255
    return pixels.round().to(torch.uint8)[:, 0], batch["targets"]


def loaders(data: MultiMNIST) -> list[ResumableLoader]:
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]


def by_pillow(left: Tensor, right: Tensor) -> Tensor:
    """The recipe of the paper's code, picture by picture, with pillow's own resizing."""
    canvas = np.zeros((36, 36), np.uint8)
    canvas[:28, :28] = left.numpy()
    canvas[6:34, 6:34] = np.maximum(canvas[6:34, 6:34], right.numpy())
    return torch.from_numpy(np.array(Image.fromarray(canvas).resize((28, 28), Image.Resampling.NEAREST)))


# --------------------------------------------------------------------------------------------------------- the pictures
def test_two_pictures_are_overlaid_as_by_the_papers_recipe() -> None:
    left, right = torch.randint(256, (2, 20, 28, 28), dtype=torch.uint8)
    for found, one, other in zip(overlaid(left, right), left, right, strict=True):
        assert torch.equal(found, by_pillow(one, other))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_picture_is_a_pair_of_its_own_split_with_its_labels(tmp_path: Path, split: str) -> None:
    folder = write_mnist(tmp_path / "MNIST" / "raw")
    data = mnist(tmp_path)
    pictures, targets = drawn(data, split)
    source, classes = MNIST.read(folder, "t10k" if split == "test" else "train")
    assert len(pictures) == {"train": 30, "val": 10, "test": 16}[split]
    every = overlaid(source.repeat_interleave(len(source), 0), source.repeat(len(source), 1, 1))
    first, second = [], []
    for picture, left, right in zip(pictures, targets["left"], targets["right"], strict=True):
        (match,) = (every == picture).flatten(1).all(1).nonzero()[:, 0].tolist()
        first.append(match // len(source))
        second.append(match % len(source))
        assert (left, right) == (classes[first[-1]], classes[second[-1]])
    assert len({*first}) == len(first)  # every source picture is the left one once
    assert {*second} <= {*first}  # and the right ones are of the same split
    assert len({*second}) > len(second) / 3


def test_the_validation_split_has_its_own_source_pictures(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    data = mnist(tmp_path)
    train, val = ({picture.numpy().tobytes() for picture in data._pictures(MNIST, split)[0]} for split in SPLITS[:2])
    assert (len(train), len(val), len(train & val)) == (30, 10, 0)


def test_the_seed_decides(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    first, again, other = (drawn(mnist(tmp_path, seed=seed), "test") for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1]["left"], other[1]["left"])  # every test picture in its order
    assert not torch.equal(first[1]["right"], other[1]["right"])


def test_pictures_are_bytes_in_memory_and_normalised_in_a_batch(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    data = mnist(tmp_path, mean=0.5, std=0.25)
    assert data.input_spec == TensorSpec((1, 28, 28))
    rows = data.rows("train")
    assert rows._columns["inputs"].dtype == torch.uint8
    inputs = rows.__getitems__(range(len(rows)))["inputs"]
    assert inputs.dtype == torch.float32
    assert (float(inputs.min()), float(inputs.max())) == (-2.0, 2.0)  # noise reaches 0 and 255
    assert torch.equal(rows[3]["inputs"], inputs[3])


def test_the_mix_has_clothes_on_the_left_and_digits_on_the_right(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST" / "raw", test=3, seed=1)
    folder = write_mnist(tmp_path / "MNIST" / "raw", test=7)
    data = mnist(tmp_path, MultiFashion, right="mnist")
    assert data.tasks["left"].spec.names == FASHION_MNIST.classes
    assert data.tasks["right"].spec.names == MNIST.classes
    pictures, targets = drawn(data, "test")
    clothes, digits = FASHION_MNIST.read(tmp_path / "FashionMNIST" / "raw", "t10k"), MNIST.read(folder, "t10k")
    assert torch.equal(targets["left"], clothes[1])
    right = [int((digits[1] == label).nonzero()) for label in targets["right"]]  # 7 pictures of 7 classes
    assert torch.equal(pictures, overlaid(clothes[0], digits[0][right]))


# ------------------------------------------------------------------------------------------------------------ the files
@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "raw", "."])
@pytest.mark.parametrize("compressed", [True, False])
def test_every_known_layout_is_read(tmp_path: Path, place: str, compressed: bool) -> None:
    write_mnist(tmp_path / place, compressed=compressed)
    assert len(mnist(tmp_path).rows("test")) == 16


def test_the_made_files_have_the_layout_of_real_ones(tmp_path: Path) -> None:
    real, made = copied("fixtures/MNIST", tmp_path / "MNIST"), tmp_path / "made"
    write_mnist(made / "raw")
    assert layout(made) == layout(real)
    for name in FILES:
        one, other = (gzip.decompress((root / "raw" / f"{name}.gz").read_bytes()) for root in (made, real))
        assert one[:4] == other[:4]
    data = mnist(tmp_path)
    assert [len(data.rows(split)) for split in SPLITS] == [24, 8, 16]
    assert set(drawn(data, "test")[1]["left"].tolist()) == set(range(10))


def published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> IdxSource:
    """Make MultiMNIST believe that MNIST is published in a folder of this machine, with these sums."""
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    source = MNIST._replace(url=folder.as_uri() + "/", md5={name: sums[name] for name in MNIST.md5})
    monkeypatch.setattr(MultiMNIST, "source", source)
    return source


def test_missing_files_are_downloaded_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, root = write_mnist(tmp_path / "far"), tmp_path / "root"
    published(far, monkeypatch)
    near = write_mnist(root / "MNIST" / "raw", compressed=False)
    kept, gone = near / "t10k-labels-idx1-ubyte", near / "train-images-idx3-ubyte"
    gone.unlink()
    before = kept.stat().st_mtime_ns
    assert [len(loader) for loader in loaders(mnist(root, download=True))] == [4, 2, 2]
    assert kept.stat().st_mtime_ns == before
    assert {path.name for path in near.iterdir()} == {*FILES, gone.name + ".gz"} - {gone.name}


def test_a_wrong_download_leaves_nothing_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, root = write_mnist(tmp_path / "far"), tmp_path / "root"
    source = published(far, monkeypatch)
    last = list(source.md5)[-1]
    (far / last).write_bytes(b"another file")
    with pytest.raises(DataError, match=rf"{last}: expected the md5 {source.md5[last]}, found [0-9a-f]{{32}} \(12 "):
        mnist(root, download=True).train_dataloader()
    assert {p.name for p in (root / "MNIST" / "raw").iterdir() if p.suffix == ".gz"} == {*source.md5} - {last}
    assert not list(root.rglob("*.part"))


def test_files_that_may_only_be_read_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    before = layout(tmp_path)
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    assert [len(loader) for loader in loaders(mnist(tmp_path))] == [4, 2, 2]
    assert layout(tmp_path) == before


def test_without_download_the_missing_file_and_the_remedy_are_named(tmp_path: Path) -> None:
    shutil.rmtree(write_mnist(tmp_path / "MNIST" / "raw"))
    with pytest.raises(DataError, match=r"MNIST/raw/train-images-idx3-ubyte.gz: expected the file.*download: true"):
        _ = mnist(tmp_path).tasks


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "truncated": ("train-images-idx3-ubyte.gz", lambda b: b[:-2000], "train-images.*cut short or damaged"),
    "no gzip": ("train-images-idx3-ubyte.gz", lambda _: b"<html>", "train-images.*cut short or damaged"),
    "another kind": ("t10k-images-idx3-ubyte", lambda b: bytes([0, 0, 13, 3]) + b[4:], "8, 3, found 0, 0, 13, 3"),
    "empty": ("t10k-images-idx3-ubyte", lambda _: b"", "t10k-images.* found an empty file"),
    "too short": ("t10k-images-idx3-ubyte", lambda b: b[:-1], "expected 16 x 28 x 28 values.* found 12543"),
    "too few labels": ("t10k-labels-idx1-ubyte", lambda _: idx_bytes(np.zeros(3, np.uint8)), "16 labels.*found 3"),
    "a label out of range": ("t10k-labels-idx1-ubyte", lambda b: b[:-2] + b"\x0a\x01", "0..9, found 10 in row 14"),
    "of another size": (
        "t10k-images-idx3-ubyte",
        lambda _: idx_bytes(np.zeros((16, 32, 32), np.uint8)),
        r"t10k-images.* pictures of 28 x 28 pixels, found \(32, 32\)",
    ),
}


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Any, message: str) -> None:
    path = write_mnist(tmp_path, compressed=name.endswith(".gz")) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        [mnist(tmp_path).rows(split) for split in SPLITS]


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=3)
    with pytest.raises(DataError, match=r"found 3 in all, of which val_fraction=0.1 takes 0"):
        mnist(tmp_path, val_fraction=0.1).rows("train")


def test_another_partner_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="right='fashion' or right='mnist', found 'kmnist'"):
        MultiFashion(right="kmnist")  # type: ignore[arg-type]  # on purpose
