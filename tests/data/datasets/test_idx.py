"""IDX files: sizes in headers are not believed before they are looked at."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mtl_lightning.data.datasets.idx import read_idx
from mtl_lightning.types import DataError


def header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_values_are_read(tmp_path: Path, name: str) -> None:
    content = header(2, 3) + bytes(range(6))
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_idx(tmp_path / name, 2).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(2**31 - 1, 2**31 - 1), "expected at least one value, and 2147483648 at most, found a header that says"),
        (header(0, 3), "expected at least one value"),
        (header(2, 3) + bytes(5), "expected 2 x 3 values, as its header says, found 5"),
        (header(2, 3) + bytes(7), "expected 2 x 3 values, as its header says, found more"),
        (header(2), "expected an IDX file of bytes with 2 axes"),
        (b"", "found an empty file"),
    ],
)
@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_file_is_read_no_further_than_its_header_says(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / name, 2)


def test_a_compressed_file_that_goes_on_for_ever_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(header(2, 3) + bytes(1 << 20))[:-20])  # its end is missing, too
    with pytest.raises(DataError, match="found more"):
        read_idx(tmp_path / "a.gz", 2)
