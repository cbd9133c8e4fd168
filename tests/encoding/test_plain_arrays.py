from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtl_lightning.encoding.plain_arrays import as_numpy, of_rows, of_texts

FLOATS = pa.array([1.5, None, -2.0, float("nan")])
ARRAYS = {
    "float64": FLOATS,
    "float32": FLOATS.cast(pa.float32()),
    "int8": pa.array([3, -1, 127], pa.int8()),
    "uint64": pa.array([3, 2**64 - 1], pa.uint64()),
    "integers with a null": pa.array([3, None, 4]),
    "bool": pa.array([True, False, True]),
    "bools with a null": pa.array([True, None]),
    "time": pa.array([0, 5], pa.timestamp("us")),
    "empty": pa.array([], pa.int32()),
    "a part": pa.array(range(20), pa.int16()).slice(7, 5),
    "a part of bools": pa.array([False] * 9 + [True, False, True]).slice(9),
    "a part of floats with nulls": pa.array([None, 1.0, None, 2.0]).slice(1, 2),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_it_is_what_arrow_gives(name: str) -> None:
    expected = ARRAYS[name].to_numpy(zero_copy_only=False)
    found = as_numpy(ARRAYS[name])
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_null_may_stand_for_a_number() -> None:
    assert as_numpy(pa.array([5, None, 7, None], pa.int8()).slice(1), 128).tolist() == [128, 7, 128]
    assert as_numpy(pa.array([True, None]), 0).tolist() == [True, False]


def test_places_and_texts_become_arrows() -> None:
    rows = np.arange(10)[1::3]
    assert of_rows(rows).equals(pa.array(rows))
    assert of_rows(rows[:0]).equals(pa.array([], pa.int64()))
    for texts in (["", "NA", "\u00fc\u4e16", "a"], []):
        of_texts(texts).validate(full=True)
        assert of_texts(texts).equals(pa.array(texts, pa.string()))


def test_cells_are_read_without_pandas(tmp_path: Any) -> None:
    file = tmp_path / "table.csv"
    file.write_text("a,b\n" + "".join(f"{i % 7 or ''}.5,v{i % 90}\n" for i in range(400)))
    code = (
        "import sys; from mtl_lightning.encoding.reader import TableFiles; from mtl_lightning.encoding.cells import *\n"
        f"files = TableFiles({str(file)!r})\n"
        "for kind in ('number', 'text'):\n for piece in files.pieces({'a': kind, 'b': 'text'}):\n"
        "  print(len(numbers(piece.rows['a'], ['x'])), len(texts(piece.rows['b'], ['v3'])[1]))\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["400 89", "400 89", "False"]
