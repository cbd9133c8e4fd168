from __future__ import annotations

from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtl_lightning.encoding.cells import CellError, numbers, texts


def read(column: Any, missing: list[str] | None = None) -> list[str | None]:
    indices, values = texts(column, missing or [])
    return [None if index < 0 else values[index] for index in indices]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array(["a", " a ", "b", "", None, "?"]), ["a", "a", "b", None, None, None]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), ["a", "b", None, "a"]),
        (pa.array([3, None, 1]), ["3", None, "1"]),
        (pa.array([3.0, None, np.nan, -1.0]), ["3", None, None, "-1"]),
        (pa.array([2.5, 3.0]), ["2.5", "3"]),
        (pa.array(["3.0", "3", "-1.00", "1.5", ".0", "v1.0"]), ["3", "3", "-1", "1.5", ".0", "v1.0"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([date(2024, 1, 31)]), ["2024-01-31"]),
        (pa.nulls(2), [None, None]),
        (pa.array([], pa.string()), []),
        (pa.chunked_array([pa.array([t]).dictionary_encode() for t in "bab"]), ["b", "a", "b"]),
    ],
)  # fmt: skip
def test_a_column_is_read_as_text_however_it_is_stored(cells: Any, expected: list[str | None]) -> None:
    assert read(cells, ["?"]) == expected


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array(["1", " 2.5 ", "", None, "?", "1e3"]), [1, 2.5, np.nan, np.nan, np.nan, 1000]),
        (pa.array(["1", "?", "1"]).dictionary_encode(), [1, np.nan, 1]),
        (pa.array([1, None, -9]), [1, np.nan, np.nan]),
        (pa.array([1.5, None, -9.0], pa.float32()), [1.5, np.nan, np.nan]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([datetime(1970, 1, 1, 0, 1), None]), [60, np.nan]),
        (pa.array([date(1970, 1, 2)]), [86400]),
        (pa.nulls(1), [np.nan]),
        (pa.chunked_array([pa.array([1]), pa.array([2])]), [1, 2]),
    ],
)
def test_a_column_is_read_as_numbers_however_it_is_stored(cells: Any, expected: list[float]) -> None:
    np.testing.assert_array_equal(numbers(cells, ["?", "-9"]), expected)


@pytest.mark.parametrize("column", [pa.array(["1", "x", "2"]), pa.array(["1", "x"]).dictionary_encode()])
def test_a_text_that_is_no_number_is_found(column: Any) -> None:
    with pytest.raises(CellError, match="expected a number, found 'x'") as caught:
        numbers(column)
    assert caught.value.row == 1
    assert str(caught.value.at("a.csv", 10)).startswith("a.csv, row 11: expected a number")


@pytest.mark.parametrize("column", [pa.array([1.0, np.inf]), pa.array(["1", "inf"]), pa.array(["1", "1_0"])])
def test_infinity_is_no_number(column: Any) -> None:
    with pytest.raises(CellError) as caught:
        numbers(column)
    assert caught.value.row == 1


def test_lists_are_refused() -> None:
    with pytest.raises(CellError, match="found list"):
        texts(pa.array([[1], [2]]))
    with pytest.raises(CellError, match="found list"):
        numbers(pa.array([[1], [2]]))
