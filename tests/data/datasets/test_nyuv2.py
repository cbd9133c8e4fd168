"""NYUv2 on made files in its layout, and on the fixtures that the made ones are checked against."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtl_lightning.data import NYUv2
from mtl_lightning.types import ConfigurationError, DataError
from tests.data.make_dense import write_nyuv2
from tests.data.shared import SHARED

FIXTURES = SHARED / "fixtures" / "nyuv2"
KINDS = ("image", "label", "depth", "normal")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_nyuv2(tmp_path / "nyuv2")


def stored(root: Path, split: str, kind: str, i: int) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.load(root / split / kind / f"{i}.npy")
    return array


def pictures(rows: Any) -> set[float]:
    """Each row's picture as one number."""
    return {round(float(rows[i]["inputs"].double().sum()), 6) for i in range(len(rows))}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return all(same(first[key], second[key]) for key in first)


# ----------------------------------------------------------------------------------------------------------- the layout
def test_made_files_are_like_the_fixtures(root: Path) -> None:
    if not FIXTURES.is_dir():
        pytest.skip("the fixtures are not beside the repository")
    for split in ("train", "val"):
        assert {*os.listdir(root / split)} == {*os.listdir(FIXTURES / split)} == {*KINDS}
        for kind in KINDS:
            made, given = (stored(folder, split, kind, 0) for folder in (root, FIXTURES))
            assert (made.shape, made.dtype) == (given.shape, given.dtype)
            given_all, made_all = (
                np.stack([np.load(path) for path in sorted((folder / split / kind).iterdir())])
                for folder in (FIXTURES, root)
            )
            for array in (given_all, made_all):
                if kind == "label":
                    assert {*np.unique(array)} <= {*range(-1, 13)}
                if kind == "depth":
                    assert 0 == array.min() < array.max() < 10
                if kind == "normal":
                    lengths = np.linalg.norm(array, axis=-1)
                    assert np.all((lengths == 0) | (np.abs(lengths - 1) < 1e-6))
                    assert (lengths == 0).any()


def test_the_fixtures_are_read() -> None:
    if not FIXTURES.is_dir():
        pytest.skip("the fixtures are not beside the repository")
    data = NYUv2(FIXTURES)
    assert [len(data.rows(split)) for split in ("train", "val", "test")] == [4, 2, 2]
    for batch in (*data.train_dataloader(), *data.test_dataloader()):
        for name, task in data.tasks.items():
            task.check(batch["targets"][name])


def test_rows_are_the_files_channels_first(root: Path) -> None:
    data = NYUv2(root, augment=False)
    assert data.input_spec is not None
    for split, folder in (("train", "train"), ("val", "val"), ("test", "val")):
        rows: Any = data.rows(split)  # type: ignore[arg-type]  # the name of a split
        for i in range(len(rows)):
            row = rows[i]
            for found, kind in ((row["inputs"], "image"), (row["targets"]["normals"], "normal")):
                assert found.dtype == torch.float32
                np.testing.assert_allclose(found.movedim(0, -1), stored(root, folder, kind, i), atol=1e-6)
            np.testing.assert_allclose(row["targets"]["depth"], stored(root, folder, "depth", i)[..., 0], rtol=1e-6)
            np.testing.assert_array_equal(row["targets"]["segmentation"], stored(root, folder, "label", i))


def test_what_is_invalid_in_the_files_counts_for_no_task(root: Path) -> None:
    data = NYUv2(root, batch_size=3)
    (batch,) = data.val_dataloader()
    label, depth, normal = (np.stack([stored(root, "val", kind, i) for i in range(3)]) for kind in KINDS[1:])
    counts = {name: int(task.count(batch["targets"][name])) for name, task in data.tasks.items()}
    assert counts == {
        "segmentation": (label != -1).sum(),
        "depth": (depth != 0).sum(),
        "normals": (normal != 0).any(-1).sum(),
    }
    assert min(counts.values()) > 0
    assert max(counts.values()) < label.size


def test_another_task_may_have_another_missing_class(root: Path) -> None:
    from mtl_lightning.tasks import SemanticSegmentation

    data = NYUv2(root, batch_size=3, tasks={"segmentation": SemanticSegmentation})
    (batch,) = data.val_dataloader()
    target = batch["targets"]["segmentation"]
    assert (target == -100).any()
    assert not (target == -1).any()
    data.tasks["segmentation"].check(target)


# ----------------------------------------------------------------------------------------------------------- the splits
def test_validation_rows_can_be_taken_off_the_training_split(root: Path) -> None:
    splits = [NYUv2(root, augment=False, val_fraction=0.3, seed=seed) for seed in (0, 0, 1)]
    train, val = (pictures(splits[0].rows(split)) for split in ("train", "val"))
    assert (len(train), len(val), len(train | val)) == (4, 2, 6)
    assert pictures(splits[0].rows("test")) == pictures(NYUv2(root).rows("val"))
    assert pictures(splits[1].rows("val")) == val
    assert pictures(splits[2].rows("val")) != val
    assert splits[0].rows("val").deterministic


def test_only_training_pictures_are_augmented_and_repeatably(root: Path) -> None:
    """By epoch and batch alone: not by what was drawn before, nor by the number of workers."""
    plain = list(NYUv2(root, augment=False).train_dataloader())
    torch.manual_seed(1)
    first = list(NYUv2(root).train_dataloader())
    torch.manual_seed(2)
    again = list(NYUv2(root, num_workers=2).train_dataloader())
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in zip(first, plain, strict=True))
    loader = NYUv2(root).train_dataloader()
    loader.order.set_epoch(1)
    assert not any(same(a, b) for a in first for b in loader)
    for batch in first:
        assert batch["inputs"].shape == (2, 3, 36, 48)
    for augment in (True, False):
        (batch,) = NYUv2(root, augment=augment, batch_size=3).val_dataloader()
        np.testing.assert_array_equal(batch["targets"]["segmentation"][1], stored(root, "val", "label", 1))


def test_pictures_are_normalised_last(root: Path) -> None:
    plain = NYUv2(root, batch_size=6)
    scaled = NYUv2(root, batch_size=6, mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 2.0))
    (before,), (after,) = plain.train_dataloader(), scaled.train_dataloader()
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.5, 0.2, 2.0])[:, None, None]
    torch.testing.assert_close(after["inputs"], (before["inputs"] - mean) / std)
    assert same(before["targets"], after["targets"])
    with pytest.raises(ConfigurationError, match=r"NYUv2: `std`: expected .* above 0, found 0"):
        NYUv2(root, std=(0.0, 1.0, 1.0))


def test_depth_can_be_standardised(root: Path) -> None:
    from functools import partial

    from mtl_lightning.tasks import DepthEstimation

    data = NYUv2(root, tasks={"depth": partial(DepthEstimation, standardize=True)})
    values = np.stack([stored(root, "train", "depth", i) for i in range(6)])[:, ::4, ::4]
    assert data.tasks["depth"].target_scale == pytest.approx(values[values > 0].std(), rel=1e-4)


# ----------------------------------------------------------------------------------------------------- missing, damaged
def test_absent_files_come_with_the_steps_to_get_them(tmp_path: Path) -> None:
    data = NYUv2(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"nowhere: expected .* train/image .* found neither. .* open https://www.drop"):
        data.prepare_data()
    with pytest.raises(DataError, match="as `root`"):
        _ = data.tasks
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_is_named(root: Path, kind: str) -> None:
    shutil.rmtree(root / "val" / kind)
    with pytest.raises(DataError, match=f"val/{kind}: expected a folder of .npy files, found none"):
        _ = NYUv2(root).schema


def test_a_removed_task_needs_no_files(root: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(root / split / "normal")
        shutil.rmtree(root / split / "label")
    data = NYUv2(root, tasks={"normals": None, "segmentation": None})
    assert list(data.tasks) == ["depth"]
    assert {*next(iter(data.train_dataloader()))["targets"]} == {"depth"}


def test_a_gap_and_a_ragged_end_are_named(root: Path) -> None:
    (root / "train" / "depth" / "5.npy").unlink()
    with pytest.raises(DataError, match=r"train/depth: expected 6 files, one for each .* found 5. 5.npy is the first"):
        _ = NYUv2(root).schema
    (root / "train" / "image" / "2.npy").unlink()
    with pytest.raises(
        DataError, match=r"train/image: expected the files 0.npy to 5.npy .* under the name 2.npy \(1 m"
    ):
        _ = NYUv2(root).schema
    shutil.rmtree(root / "val" / "image")
    (root / "val" / "image").mkdir()
    with pytest.raises(DataError, match=r"image: expected the files 0.npy"):
        _ = NYUv2(root).schema


@pytest.mark.parametrize(
    ("kind", "array", "message"),
    [
        ("image", np.zeros((36, 47, 3)), r"expected an array of shape \(36, 48, 3\), found \(36, 47, 3\)"),
        ("image", np.zeros((36, 48, 3), dtype=np.uint8), "expected floats, found uint8. Pictures are colours in 0..1"),
        ("image", np.full((36, 48, 3), np.nan), r"expected colours in 0..1 .*, found nan at pixel \(0, 0\)"),
        ("label", np.zeros((36, 48, 3)), r"expected an array of shape \(36, 48\), found \(36, 48, 3\)"),
        ("label", np.full((36, 48), 13.0), r"expected classes 0..12 or -1 for none, found 13 at pixel \(0, 0\)"),
        ("label", np.full((36, 48), 0.5), r"expected classes 0..12 or -1 for none, found 0.5"),
        ("depth", np.full((36, 48, 1), -1.0), "expected finite numbers of at least 0, or nan, found -1 at"),
        ("depth", np.full((36, 48), np.inf), "expected finite numbers of at least 0, or nan, found inf at"),
        ("normal", np.full((36, 48, 3), np.inf), "expected finite vectors, or nan, found inf at"),
        ("normal", np.array([{}]), "expected an array in NumPy's format, found what cannot be read"),
    ],
)
@pytest.mark.parametrize("i", [0, 1])
def test_a_damaged_file_is_named_before_the_first_batch_or_when_it_is_read(
    root: Path, kind: str, array: np.ndarray[Any, Any], message: str, i: int
) -> None:
    np.save(root / "val" / kind / f"{i}.npy", array, allow_pickle=True)
    data = NYUv2(root)
    with pytest.raises(DataError, match=rf"val/{kind}/{i}.npy: {message}"):
        _ = data.schema if i == 0 else list(data.val_dataloader())


def test_a_truncated_file_is_named(root: Path) -> None:
    path = root / "train" / "normal" / "3.npy"
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train/normal/3.npy: expected an array .* found what cannot be read"):
            list(NYUv2(root).train_dataloader())
    path.unlink()
    rows = NYUv2(root, tasks={"normals": None}).rows("train")
    shutil.rmtree(root / "train" / "depth")
    with pytest.raises(DataError, match=r"train/depth/0.npy: expected a file, found none"):
        rows[0]


def test_a_split_needs_rows_on_both_sides(root: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"found 0 of 6 rows to validate on with val_fraction=0.01"):
        NYUv2(root, val_fraction=0.01).rows("train")


def test_predictions_need_pictures_alone(root: Path, tmp_path: Path) -> None:
    schema = NYUv2(root).schema
    for split in ("train", "val"):
        for kind in KINDS[1:]:
            shutil.rmtree(root / split / kind)
    data = NYUv2(root)
    data.restore_schema(schema)
    batches = list(data.predict_dataloader())
    assert [{*batch} for batch in batches] == [{"inputs"}] * 2
    assert sum(len(batch["inputs"]) for batch in batches) == 3
    with pytest.raises(DataError, match=r"val/label/0\.npy: expected a file, found none"):
        list(data.test_dataloader())
