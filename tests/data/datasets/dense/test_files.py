"""Files that are numbered: a name may be any number, and a header say any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_lightning.data.datasets.dense.files import Layer, count_files, sides_of
from mtl_lightning.types import DataError


def test_files_are_counted(tmp_path: Path) -> None:
    for name in ("0.npy", "1.npy", "2.npy", "notes.npy", "9.txt"):
        (tmp_path / name).touch()
    assert count_files(tmp_path) == 3


@pytest.mark.parametrize("name", ["7", "99999999999", "9" * 200])
def test_a_gap_of_any_size_is_told_at_once(tmp_path: Path, name: str) -> None:
    for stem in ("0", "1", name):
        (tmp_path / f"{stem}.npy").touch()
    lost = int(name) - 2
    with pytest.raises(DataError, match=rf"found none under the name 2\.npy \({lost} missing\)"):
        count_files(tmp_path)


@pytest.mark.parametrize(
    ("value", "fits"),
    [(0.0, True), (1.0, True), (1.0005, True), (1.5, False), (-0.5, False), (255.0, False), (np.nan, False)],
)
def test_colours_are_in_0_to_1(value: float, fits: bool, tmp_path: Path) -> None:
    picture = np.full((2, 3, 3), 0.5, np.float32)
    picture[1, 2, 0] = value
    np.save(tmp_path / "0.npy", picture)
    if fits:
        assert Layer.pictures("image").read(tmp_path / "0.npy", (2, 3))[0, 1, 2] == pytest.approx(value)
        return
    with pytest.raises(
        DataError, match=r"0\.npy: expected colours in 0\.\.1 \(bytes .* 255\), found .* at pixel \(1, 2\)"
    ):
        Layer.pictures("image").read(tmp_path / "0.npy", (2, 3))


@pytest.mark.parametrize("shape", ["(10, 1000000000000)", "(99999999999999999999, 9999999999999999999)", "(-3, 2)"])
def test_a_header_that_says_too_much_is_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "0.npy"
    np.save(path, np.zeros((10, 10), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"(10, 10), }", f"({shape[1:-1]}), }}".encode()))
    with pytest.raises(DataError, match=r"0\.npy: expected an array in NumPy's format, found what cannot be read"):
        sides_of(path)
