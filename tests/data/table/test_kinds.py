"""Columns of other kinds than numbers and categories: one schema in all storages, the same codes from all rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
import xxhash

from mtl_lightning.data import Streaming, TableColumns, TableData, TableEncoder, TableFitter, TableSplit, TargetColumn
from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.kinds import kinds_of
from mtl_lightning.encoding.lenient import Faults, LenientEncoder
from mtl_lightning.types import ConfigurationError, DataError, TableSpec

ROWS, TRAIN = 300, 240
TARGETS = {"y": TargetColumn(kind="number")}


def fitted(table: Any, **declared: Any) -> dict[str, Any]:
    """The schema of all rows of a table, which has a target ``y``."""
    table = table if "y" in table.column_names else table.append_column("y", pa.array(np.arange(len(table)) % 7.0))
    fitter = TableFitter(TableColumns(TARGETS, **declared))
    fitter.update(table)
    schema = fitter.finish()
    assert json.loads(json.dumps(schema)) == schema
    return schema


def encoded(schema: dict[str, Any], table: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = TableEncoder(schema).encode(table, targets=False)["inputs"]
    return found


def lenient(schema: dict[str, Any], rows: Any) -> tuple[dict[str, Any], DriftCounts, Faults]:
    encoder, faults = LenientEncoder(schema), Faults()
    drift = encoder.counts()
    encode = encoder.rows if isinstance(rows, list) else encoder.table
    return encode(rows, drift, faults), drift, faults


def kinds_of_drift(drift: DriftCounts) -> set[tuple[str, str]]:
    return {(one.column, one.kind) for one in drift.found()}


# ------------------------------------------------------------------------------------------------------------ a table
@pytest.fixture(scope="module")
def table() -> Any:
    """Columns of all kinds; validation and test hold what training does not."""
    random = np.random.default_rng(0)
    own = np.arange(ROWS) < TRAIN
    user = [None if i % 17 == 3 else f"u{n}" for i, n in enumerate(random.integers(0, 40, ROWS))]
    return pa.table(
        {
            "x": random.normal(0, 1, ROWS),
            "user_id": [u if inside else f"new {i}" for i, (u, inside) in enumerate(zip(user, own, strict=True))],
            "item": random.integers(10**12, 10**12 + 30, ROWS),
            "y": random.normal(0, 1, ROWS),
            "fold": np.where(own, "train", np.where(np.arange(ROWS) < 270, "val", "test")),
        }
    )


DECLARED: dict[str, Any] = {"hashed": {"user_id": 64, "item": 50}, "min_count": {"item": 3}}


def as_csv(folder: Path, table: Any) -> dict[str, Any]:
    pyarrow.csv.write_csv(table, folder / "t.csv")
    return {"path": str(folder / "t.csv")}


def as_two_csv(folder: Path, table: Any) -> dict[str, Any]:
    for part, rows in enumerate((table.slice(0, 97), table.slice(97))):
        pyarrow.csv.write_csv(rows, folder / f"{part}.csv")
    return {"path": str(folder)}


def as_parquet(folder: Path, table: Any, **options: Any) -> dict[str, Any]:
    pq.write_table(table, folder / "t.parquet", row_group_size=90)
    return {"path": str(folder / "t.parquet"), **options}


def as_stream(folder: Path, table: Any) -> dict[str, Any]:
    return as_parquet(folder, table, stream=Streaming(buffer_rows=70))


STORAGES: list[Callable[[Path, Any], dict[str, Any]]] = [as_two_csv, as_parquet, as_stream]


def made(store: Callable[[Path, Any], dict[str, Any]], folder: Path, table: Any) -> TableData:
    folder.mkdir()
    where = store(folder, table)
    return TableData(
        targets={"y": TargetColumn(kind="number")}, split=TableSplit(column="fold"), batch_size=64, **where, **DECLARED
    )


@pytest.fixture(scope="module")
def expected(table: Any, tmp_path_factory: pytest.TempPathFactory) -> TableData:
    return made(as_csv, tmp_path_factory.mktemp("csv") / "t", table)


@pytest.mark.parametrize("store", STORAGES, ids=lambda store: store.__name__)
def test_kinds_are_the_same_in_all_storages(
    store: Callable[[Path, Any], dict[str, Any]], expected: TableData, table: Any, tmp_path: Path
) -> None:
    data = made(store, tmp_path / "t", table)
    assert data.schema == expected.schema
    for loader in ("val_dataloader", "test_dataloader"):
        batch, like = (next(iter(getattr(one, loader)())) for one in (data, expected))
        assert batch["inputs"].keys() == like["inputs"].keys()
        for name, tensor in like["inputs"].items():
            assert batch["inputs"][name].dtype == tensor.dtype
            torch.testing.assert_close(batch["inputs"][name], tensor, rtol=0, atol=0, equal_nan=True)
    assert data._drifts.report("test") == expected._drifts.report("test")


def test_the_spec_has_all_that_the_network_is_given(expected: TableData) -> None:
    spec = expected.input_spec
    assert isinstance(spec, TableSpec)
    inputs = next(iter(expected.train_dataloader()))["inputs"]
    assert inputs["numeric"].shape[1] == len(spec.numeric)
    assert inputs["categorical"].shape[1] == len(spec.categorical)
    assert (inputs["categorical"].max(0).values < torch.tensor([*spec.categorical.values()])).all()
    assert inputs["lists"].shape[1] == sum(length for _, length in spec.lists.values()) if spec.lists else True


def test_rows_of_python_and_of_arrow_are_encoded_as_those_of_files(expected: TableData, table: Any) -> None:
    drop = [name for name in table.column_names if name != "y"]
    strict = encoded(expected.schema, table)
    for rows in (table.select(drop).to_pylist(), table):
        found, drift, faults = lenient(expected.schema, rows)
        assert not faults
        for name, tensor in strict.items():
            np.testing.assert_array_equal(found[name], tensor.numpy())
        assert ("user_id", "unseen") in kinds_of_drift(drift)


# -------------------------------------------------------------------------------------------------------------- hashes
def test_an_id_is_the_bucket_of_its_hash() -> None:
    table = pa.table({"id": ["a", "b", None, "a", " a ", "c"]})
    schema = fitted(table, hashed={"id": 1000})
    codes = [1 + xxhash.xxh3_64_intdigest(text.encode()) % 1000 for text in "abc"]
    assert codes == [720, 616, 12]  # the same on every machine
    a, b, c = codes
    assert encoded(schema, table)["categorical"].flatten().tolist() == [a, b, 0, a, a, c]
    assert schema["missing"] == {"id": 1}
    assert schema["input_spec"]["table"]["categorical"] == {"id": 1001}


def test_an_id_of_another_bucket_is_new() -> None:
    schema = fitted(pa.table({"id": ["a", "b", "a"]}), hashed={"id": 1000})
    found, drift, _ = lenient(schema, pa.table({"id": ["a", "zz", None, "yy"]}))
    assert (found["categorical"].flatten() > 0).tolist() == [True, False, False, False]
    (unseen,) = [one for one in drift.found() if one.kind == "unseen"]
    assert (unseen.column, unseen.cells) == ("id", 2)
    assert "'zz', 'yy'" in unseen.words


def test_numbers_texts_and_bools_are_hashed_alike() -> None:
    schema = fitted(pa.table({"id": ["1", "2", "true"]}), hashed={"id": 1000})
    one = encoded(schema, pa.table({"id": ["1"]}))["categorical"]
    for column in (pa.array([1]), pa.array([1.0]), pa.array(["1.0"]), pa.array(["1"]).dictionary_encode()):
        assert torch.equal(encoded(schema, pa.table({"id": column}))["categorical"], one)
    for value in (1, 1.0, "1", np.int64(1)):
        assert lenient(schema, [{"id": value}])[0]["categorical"].tolist() == one.tolist()
    true = encoded(schema, pa.table({"id": ["true"]}))["categorical"]
    for column in (pa.array([True]), pa.array(["True"])):
        assert torch.equal(encoded(schema, pa.table({"id": column}))["categorical"], true)


def test_buckets_seldom_met_count_as_new() -> None:
    schema = fitted(pa.table({"id": ["a", "a", "b"]}), hashed={"id": 1000}, min_count={"id": 2})
    assert (encoded(schema, pa.table({"id": ["a", "b"]}))["categorical"].flatten() > 0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"hashed": {"id": 0}}, "expected a number of buckets from 1"),
        ({"hashed": {"id": 10**12}}, "expected a number of buckets from 1"),
        ({"hashed": {"ids": 10}}, "found 'ids' in `hashed`. Did you mean 'id'"),
        ({"hashed": {"y": 10}}, "holds a target or a weight"),
        ({"hashed": {"id": 10}, "categorical": ["id"]}, "found it in `categorical` and `hashed`"),
        ({"min_count": {"ids": 3}}, "found 'ids' in `min_count`"),
    ],
)
def test_what_cannot_be_declared(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fitted(pa.table({"id": ["a", "b"]}), **declared)


@pytest.mark.parametrize(
    "known",
    [
        {"kind": "later", "column": "id"},
        {"kind": "hashed", "column": "id"},
        {"kind": "hashed", "column": "id", "buckets": 10**15, "met": ""},
        {"kind": "hashed", "column": "id", "buckets": 10, "met": "AAAAAAAAAAA="},
        {"kind": "hashed", "column": "id", "buckets": 10, "met": "?"},
        ["hashed"],
    ],
)
def test_a_kind_that_is_none_is_refused(known: Any) -> None:
    with pytest.raises(DataError, match=r"Feature 'id' of the schema|bits in base64"):
        kinds_of({"kinds": {"id": known}, "missing_values": []})


def test_cells_that_cannot_be_read_are_told_and_taken_as_missing() -> None:
    schema = fitted(pa.table({"id": ["a", "b", "a"]}), hashed={"id": 1000})
    found, _, faults = lenient(schema, [{"id": "a"}, {"id": {"a": 1}}, {}, {"id": ["a"]}])
    assert (found["categorical"].flatten() > 0).tolist() == [True, False, False, False]
    assert (faults.unreadable, faults.absent) == ({"id": 2}, {"id": 1})
    _, _, faults = lenient(schema, pa.table({"id": [["a"], None]}))
    assert faults.unreadable == {"id": 1}
