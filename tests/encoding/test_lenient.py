"""Values of Python are encoded, bit for bit, as a file that holds them is; what cannot be read is told of."""

from __future__ import annotations

import csv
import datetime
import io
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_lightning.data import TableColumns, TableEncoder, TableFitter, TargetColumn
from mtl_lightning.encoding import TableFiles
from mtl_lightning.encoding.lenient import Faults, LenientEncoder
from mtl_lightning.errors import DataError

Row = dict[str, Any]


def fitted(columns: dict[str, list[Any]], **declared: Any) -> dict[str, Any]:
    """A schema of some columns, with a target."""
    rows = len(next(iter(columns.values())))
    table = pa.table({**columns, "y": np.arange(rows) % 2})
    fitter = TableFitter(TableColumns({"y": TargetColumn(kind="classes")}, **declared))
    fitter.update(table)
    return fitter.finish()


def encoded(schema: dict[str, Any], rows: list[Row]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Faults]:
    encoder, faults = LenientEncoder(schema), Faults()
    found = encoder.rows(rows, encoder.counts(), faults)
    return found["numeric"], found["categorical"], faults


def same(left: Any, right: Any) -> bool:
    return bool(left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes())


# ---------------------------------------------------------------------- as Arrow encodes the columns
SCHEMA = fitted(
    {
        "width": [1.0, 2.0, 4.0, -3.0],
        "pay": [10.0, 1e6, -5.0, 0.0],
        "euro": ["1.234,5", "7,25", "-2,0", "3"],
        "town": ["Ulm", "Bonn", "3", "2.5"],
        "flag": ["true", "false", "true", "false"],
    },
    numeric=["width", "pay", "euro"],
    categorical=["town", "flag"],
    log1p=["pay"],
    missing_values=["-999", "?"],
)
NUMBERS = st.one_of(st.none(), st.floats(-1e38, 1e38), st.floats(-(2.0**100), 2.0**100, width=32), st.just(-999.0))
TEXTS = st.one_of(
    st.none(), st.sampled_from(["Ulm", " Bonn", "3", "3.00", "?", "", "-999", "new"]), st.text(max_size=5)
)
SPELLED = st.one_of(
    st.none(), st.sampled_from(["1,5", "1.234,5", "1.000", " 3 ", "", "?", "€ 7", "(2,5)"]), st.integers(0, 99).map(str)
)
TABLE = st.fixed_dictionaries(
    {
        "width": NUMBERS,
        "pay": NUMBERS,
        "euro": SPELLED,
        "town": TEXTS,
        "flag": st.sampled_from([None, "true", "TRUE", "False", "no"]),
    }
)
KINDS = {"width": pa.float64(), "pay": pa.float64(), **dict.fromkeys(("euro", "town", "flag"), pa.string())}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(TABLE, min_size=1, max_size=6))
def test_rows_of_python_are_encoded_as_arrows_columns(rows: list[Row]) -> None:
    encoder, faults = LenientEncoder(SCHEMA), Faults()
    table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in KINDS.items()})
    by_rows, by_table = encoder.counts(), encoder.counts()
    wanted, found = encoder.table(table, by_table, Faults()), encoder.rows(rows, by_rows, faults)
    strict = TableEncoder(SCHEMA).encode(table, targets=False)["inputs"]
    for name, array in wanted.items():
        assert same(found[name], array), name
        assert same(array, strict[name].numpy()), name
    assert not faults
    for row in rows:  # alone, as far as that is enough
        quick = encoder.few([row])
        alone = encoder.rows([row], encoder.counts(), Faults())
        assert quick is None or all(same(quick[name], alone[name]) for name in alone)
    assert by_rows.found() == by_table.found()
    assert by_rows.rows == len(rows)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_infinity=False))))
def test_each_value_is_encoded_by_itself_whatever_stands_beside_it(values: list[Any]) -> None:
    categories = fitted({"c": ["1", "true", "0", "2.5"]}, categorical=["c"])
    alone = [encoded(categories, [{"c": value}])[1][0, 0] for value in values]
    together = encoded(categories, [{"c": value} for value in values])[1].reshape(-1)
    assert together.tolist() == alone
    for value, code in zip(values, alone, strict=True):
        assert code == TableEncoder(categories).encode(pa.table({"c": [value]}), targets=False)["inputs"]["categorical"]


# ---------------------------------------------------------------------- as files that hold them are encoded
def from_csv(folder: Path, schema: dict[str, Any], texts: list[str]) -> tuple[list[float], list[int]]:
    """Encode one column of a CSV file, as a run of training reads it."""
    file = folder / "rows.csv"
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["c", "d"], *([text, "x"] for text in texts)])
    file.write_text(out.getvalue())
    return from_file(file, schema)


def from_file(file: Path, schema: dict[str, Any]) -> tuple[list[float], list[int]]:
    encoder = TableEncoder(schema)
    (piece,) = TableFiles(file, missing=schema["missing_values"]).pieces(encoder.needed(targets=False))
    inputs = encoder.encode(piece.rows, targets=False)["inputs"]
    return inputs["numeric"].flatten().tolist(), inputs["categorical"].flatten().tolist()


@pytest.mark.parametrize(
    ("trained", "values", "text"),
    [
        (["1", "2", "10"], [1, 1.0, np.int8(1), np.float32(1), Decimal("1.00"), "1", " 1.0 "], "1"),
        (["1.5", "2.5"], [1.5, np.float64(1.5), np.float32(1.5), Decimal("1.5"), "1.5"], "1.5"),
        (["true", "false"], [True, np.bool_(True), "true"], "true"),
        (["True", "False"], [True, np.bool_(True), "True", "TRUE"], "True"),
        (["a", "b"], [None, float("nan"), "", "NA", pd.NA, pd.NaT, np.float64("nan")], ""),
        (["10000000000000000", "2.5"], [10**16, 1e16], "10000000000000000"),
        (["0", "1"], [True], "true"),  # a file would say true, which training did not see
        (["1", "2"], [2.5, "new", 10**30], "7"),
    ],
)
def test_categories_of_python_are_those_of_a_csv_file(
    tmp_path: Path, trained: list[str], values: list[Any], text: str
) -> None:
    schema = fitted({"c": trained, "d": ["x"] * len(trained)}, categorical=["c", "d"])
    wanted = from_csv(tmp_path, schema, [text])[1][0]
    assert [encoded(schema, [{"c": value}])[1][0, 0] for value in values] == [wanted] * len(values)


@pytest.mark.parametrize(
    ("trained", "values", "text"),
    [
        ([1.0, 2.5, 7.0], [3, 3.0, True + 2, np.int64(3), np.float32(3), Decimal("3.0"), "3", " 3.0 ", "3e0"], "3"),
        (["1,5", "2,25", "-3,0"], ["1,5", 1.5, np.float32(1.5), Decimal("1.5"), " 1,50 "], "1,5"),
        (["1,234", "2,500.5", "7"], ["1,234", 1234, 1234.0], "1,234"),
        (["true", "false", "true"], [True, 1, 1.0, "TRUE", np.bool_(True)], "true"),
        (
            ["2024-01-01", "2024-03-01", "2024-02-01"],
            ["2024-02-01", datetime.date(2024, 2, 1), datetime.datetime(2024, 2, 1), pd.Timestamp("2024-02-01"),
             np.datetime64("2024-02-01"), datetime.datetime(2024, 2, 1, tzinfo=datetime.timezone.utc)],
            "2024-02-01",
        ),
        ([1.0, 2.0, 3.0], [None, math.nan, "", "NA", pd.NA, pd.NaT, "nan"], ""),
    ],
)  # fmt: skip
def test_numbers_of_python_are_those_of_a_csv_file(
    tmp_path: Path, trained: list[Any], values: list[Any], text: str
) -> None:
    schema = fitted({"c": trained, "d": ["x"] * len(trained)}, numeric=["c"], categorical=["d"])
    wanted = from_csv(tmp_path, schema, [text])[0][0]
    found = [encoded(schema, [{"c": value}])[0][0, 0] for value in values]
    np.testing.assert_array_equal(found, [wanted] * len(values))
    together, _, faults = encoded(schema, [{"c": value} for value in values])
    np.testing.assert_array_equal(together[:, 0], found)
    assert not faults.unreadable


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, None], pa.int64()),
        pa.array([1.0, 2.5, None], pa.float32()),
        pa.array([True, False, None]),
        pa.array(["1", "x", None]).dictionary_encode(),
        pa.array([Decimal("1.50"), Decimal("2.25"), None]),
        pa.array([datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2, 3), None]),
        pa.array([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2), None]),
    ],
    ids=lambda values: str(values.type),
)
def test_values_of_a_parquet_file_are_encoded_alike_as_python(tmp_path: Path, values: Any) -> None:
    text = pa.types.is_dictionary(values.type)
    kinds = {"categorical": ["c"]} if text else {"numeric": ["c"], "categorical": ["c"]}
    pq.write_table(pa.table({"c": values, "d": ["x"] * 3}), tmp_path / "rows.parquet")
    schema = fitted({"c": values, "d": ["x"] * 3}, **kinds)
    numbers, codes = from_file(tmp_path / "rows.parquet", schema)
    found = encoded(schema, [{"c": value, "d": "x"} for value in values.to_pylist()])
    np.testing.assert_array_equal(found[0].flatten(), numbers)
    assert found[1].flatten().tolist() == codes


def test_frames_are_encoded_as_the_table_that_they_are() -> None:
    from mtl_lightning.predictor.intake import TableIntake

    columns: dict[str, list[Any]] = {
        "n": [1.5, None, 3.0],
        "i": [1, 2, None],
        "c": ["a", None, "b"],
        "t": ["1", "2", "3"],
    }
    schema = fitted(columns, numeric=["n", "i"], categorical=["c", "t"])
    intake = TableIntake(schema, {})
    wanted = intake(pa.table(columns)).inputs
    frame = pd.DataFrame(
        {
            "n": columns["n"],
            "i": pd.array([1, 2, None], "Int64"),
            "c": pd.Categorical(columns["c"]),
            "t": [1, 2, 3],
            "other": [[1], {}, "x"],
        }
    )
    mixed = frame.assign(t=pd.Series([1, "2", 3.0], dtype=object))
    polar = pl.DataFrame({**columns, "c": pl.Series(columns["c"], dtype=pl.Categorical), "t": [1, 2, 3]})
    in_columns = {**columns, "t": np.array([1, 2, 3]), "other": [1]}
    for given_so in (frame, mixed, polar, in_columns, pa.table(columns).to_pylist(), pa.table(columns).to_batches()[0]):
        found = intake(given_so)
        assert isinstance(found.inputs, dict)
        assert isinstance(wanted, dict)
        assert all(same(found.inputs[name], wanted[name]) for name in wanted), type(given_so)
        assert not found.report, type(given_so)


# ------------------------------------------------------------------------------------------------- what cannot be read
def test_what_cannot_be_read_is_missing_and_told_of() -> None:
    schema = fitted(
        {"n": [1.0, 2.0], "c": ["a", "b"], "both": ["1", "2"]}, numeric=["n", "both"], categorical=["c", "both"]
    )
    rows: list[Row] = [
        {"n": "forty", "c": ["a"], "both": 1},
        {"n": [1], "c": "b", "both": {}},
        {"n": 1e39, "c": "b"},
        {"n": math.inf, "c": object(), "both": "x"},
        {"n": 10**400, "c": b"a", "both": 2},
    ]
    numeric, codes, faults = encoded(schema, rows)
    assert np.isnan(numeric[:, 0]).all()
    assert codes[:, 0].tolist() == [0, 2, 2, 0, 0]
    assert codes[:, 1].tolist() == [1, 0, 0, 0, 2]
    assert faults.unreadable == {"n": 5, "c": 3, "both": 3}
    assert faults.absent == {"both": 1}
    assert faults.shown["n"][0] == (0, "'forty'")
    encoder, found = LenientEncoder(schema), Faults()
    table = pa.table({"n": ["1", "forty", None], "c": [["a"], None, ["b"]]})
    assert np.isnan(encoder.table(table, encoder.counts(), found)["numeric"][1:]).all()
    assert (found.unreadable, found.absent) == ({"n": 1, "c": 2}, {"both": 3})
    assert found.shown["n"] == [(1, "'forty'")]
    assert encoder.texts(table, "c") == encoder.texts(table.to_pylist(), "c") == [None, None, None]


def test_a_few_rows_of_arrow_are_encoded_as_many() -> None:
    from mtl_lightning.predictor.intake import TableIntake

    intake, encoder = TableIntake(SCHEMA, {}), LenientEncoder(SCHEMA)
    table = pa.table(
        {
            "width": pa.array([1.5, None, 2.0], pa.float32()),
            "pay": pa.array([1, 2, None], pa.int16()),
            "euro": pa.array(["1.000", "7,25", "3"]).dictionary_encode(),
            "town": pa.array(["Ulm", None, "3"], pa.large_string()),
            "flag": [True, False, None],
        }
    )
    for rows in (table, table.slice(1, 1), table.set_column(0, "width", pa.array([1e9, None, 2.0]))):
        found, wanted = intake(rows), encoder.table(rows, encoder.counts(), Faults())
        assert isinstance(found.inputs, dict)
        assert all(same(found.inputs[name], wanted[name]) for name in wanted)
    assert [one.kind for one in intake(table.set_column(0, "width", pa.array([1e9] * 3))).report.columns] == ["outside"]
    with pytest.raises(DataError, match="'pay' more than once"):
        intake(table.append_column("pay", table["pay"]))


def test_a_few_rows_with_nothing_to_tell_of_are_encoded_quickly() -> None:
    encoder = LenientEncoder(SCHEMA)
    row: Row = {"width": 1, "pay": -5.0, "euro": None, "town": "Ulm", "flag": None, "other": [1]}
    quick = encoder.few([row, {**row, "pay": True}])
    wanted = encoder.rows([row, {**row, "pay": True}], encoder.counts(), Faults())
    assert quick is not None
    assert all(same(quick[name], wanted[name]) for name in wanted)
    for name, value in {"width": 1e6, "pay": -999, "euro": "1,5", "town": "Rome", "flag": [1]}.items():
        assert encoder.few([{**row, name: value}]) is None, name
    del row["flag"]
    assert encoder.few([row]) is None
