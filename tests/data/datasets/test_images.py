from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtl_lightning.data.datasets.images import ImageFileRows, check_size, normalized, read_picture
from mtl_lightning.types import ConfigurationError, DataError
from tests.data.make_images import write_image


def picture(path: Path, size: tuple[int, int] = (27, 22)) -> Path:
    write_image(path, np.random.default_rng(0), size)
    return path


def test_a_picture_is_read_as_colours_in_rows_and_columns(tmp_path: Path) -> None:
    array = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.from_numpy(array).permute(2, 0, 1))
    Image.fromarray(array[..., 0]).save(tmp_path / "grey.png")
    assert torch.equal(read_picture(tmp_path / "grey.png"), torch.from_numpy(array[..., 0]).expand(3, 2, 5))


def test_a_picture_is_resized_with_averages_and_without_keeping_its_ratio(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    small = read_picture(tmp_path / "stripes.png", (4, 8))
    assert small.shape == (3, 4, 8)
    assert (small[:, :, 1:-1].int() - 100).abs().max() <= 2  # every pixel of the file counts, not every eighth
    assert read_picture(picture(tmp_path / "a.jpg"), (64, 48)).shape == (3, 64, 48)


def test_normalisation_is_by_channel() -> None:
    pictures = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1).expand(2, 3, 4, 5)
    found = normalized(pictures, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0))
    assert found.dtype == torch.float32
    expected = torch.tensor([-1.0, 0.0, 0.5]).reshape(3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(found, expected)


def test_what_is_no_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", (200, 200))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:10], b"", b"<html>"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.jpg: expected an image, found a file that cannot be read as one"):
            read_picture(path, (8, 8))
    with pytest.raises(DataError, match=r"gone.jpg: expected an image, found no such file"):
        read_picture(tmp_path / "gone.jpg")


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_name_the_file_as_well(tmp_path: Path, workers: int) -> None:
    from mtl_lightning.data import ResumableLoader

    names = [picture(tmp_path / f"{n}.jpg").name for n in range(3)]
    (tmp_path / "2.jpg").write_bytes(b"no image")
    labels = torch.tensor([[0, 1], [1, 1], [0, 0]], dtype=torch.uint8)
    rows = ImageFileRows(tmp_path, names, labels, ["a", "b"], size=(6, 5), mean=(0, 0, 0), std=(1, 1, 1))
    batches = iter(ResumableLoader(rows, batch_size=2, num_workers=workers))
    first = next(batches)
    assert first["inputs"].shape == (2, 3, 6, 5)
    assert {name: target.tolist() for name, target in first["targets"].items()} == {"a": [0, 1], "b": [1, 1]}
    assert first["targets"]["a"].dtype == torch.int64
    with pytest.raises(DataError, match=r"2\.jpg: expected an image"):
        next(batches)


def test_without_pillow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mtl_lightning.data import CelebA, Office

    monkeypatch.setitem(sys.modules, "PIL", None)
    for make in (CelebA, Office):
        with pytest.raises(ConfigurationError, match=r"pip install 'mtl-lightning\[images\]'"):
            make(tmp_path)


@pytest.mark.parametrize("size", [(64,), (1, 2, 3)])
def test_a_size_is_two_numbers(size: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="Ours: expected `size` to be a height and a width"):
        check_size("Ours", size)
