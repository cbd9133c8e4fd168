"""One table has one schema, wherever it is stored, and however its rows are divided into files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from mtl_lightning.data import Streaming, TableData, TableSplit

ROWS, TRAIN = 400, 300
TARGETS = ["price", "kind", "sold"]


@pytest.fixture(scope="module")
def table() -> Any:
    """Columns of every kind; the last 100 rows, of validation and test, are from another world."""
    random = np.random.default_rng(0)
    own = np.arange(ROWS) < TRAIN
    price = np.where(own, random.normal(100, 10, ROWS).round(2), 1e9)
    return pa.table(
        {
            "x": np.where(own, random.normal(0, 1, ROWS), 1e30),
            " code ": np.where(own, random.integers(1, 5, ROWS), 77),
            "city": np.where(own, random.choice(["Ulm", "Jena", "NA"], ROWS), "Atlantis"),
            "paid": [f"${value:,.2f}" if inside else "a lot" for value, inside in zip(price * 50, own, strict=True)],
            "member": random.random(ROWS) < 0.3,
            "note": [str(value) if inside else "oops" for value, inside in zip(price.round(1), own, strict=True)],
            "price": [None if i % 10 == 3 else value for i, value in enumerate(price)],
            "kind": np.where(own, random.choice(["a", "b", "c"], ROWS), "d"),
            "sold": np.where(own, random.choice(["yes", "no"], ROWS), "perhaps"),
            "fold": np.where(own, "train", np.where(np.arange(ROWS) < 350, "val", "test")),
        }
    )


def csv(table: Any) -> bytes:
    written = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, written, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return bytes(written.getvalue())


def text_as(table: Any, kind: Any) -> Any:
    """The table with its columns of text stored as another type; a dictionary keeps the values of all rows."""
    for place, field in enumerate(table.schema):
        if field.type == pa.string():
            column = table.column(place).dictionary_encode() if kind is None else table.column(place).cast(kind)
            table = table.set_column(place, field.name, column)
    return table


def in_csv(folder: Path, table: Any) -> dict[str, Any]:
    (folder / "t.csv").write_bytes(csv(table))
    return {"path": str(folder / "t.csv")}


def in_two_csv(folder: Path, table: Any) -> dict[str, Any]:
    for part, rows in enumerate((table.slice(0, 130), table.slice(130))):
        (folder / f"{part}.csv").write_bytes(csv(rows))
    return {"path": str(folder / "*.csv")}


def in_gzip(folder: Path, table: Any) -> dict[str, Any]:
    (folder / "t.csv.gz").write_bytes(gzip.compress(csv(table)))
    return {"path": str(folder / "t.csv.gz")}


def in_parquet(folder: Path, table: Any, **options: Any) -> dict[str, Any]:
    pq.write_table(table, folder / "t.parquet", row_group_size=90)
    return {"path": str(folder / "t.parquet"), **options}


def in_dictionaries(folder: Path, table: Any) -> dict[str, Any]:
    return in_parquet(folder, text_as(table, None))


def in_large_strings(folder: Path, table: Any) -> dict[str, Any]:
    return in_parquet(folder, text_as(table, pa.large_string()))


def in_string_views(folder: Path, table: Any) -> dict[str, Any]:
    if int(pa.__version__.partition(".")[0]) < 21:
        pytest.skip("before pyarrow 21 such columns are read, but not written to Parquet")
    return in_parquet(folder, text_as(table, pa.string_view()))


def streamed(folder: Path, table: Any) -> dict[str, Any]:
    return in_parquet(folder, table, stream=Streaming(buffer_rows=70))


def streamed_dictionaries(folder: Path, table: Any) -> dict[str, Any]:
    return in_parquet(folder, text_as(table, None), stream=True)


def in_three_files(folder: Path, table: Any) -> dict[str, Any]:
    folds = {"train": (0, TRAIN), "val": (TRAIN, 50), "test": (TRAIN + 50, 50)}
    for name, (start, rows) in folds.items():
        pq.write_table(table.slice(start, rows), folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in folds} | {"ignore": ["fold"]}


STORAGES: list[Callable[[Path, Any], dict[str, Any]]] = [
    in_two_csv, in_gzip, in_parquet, in_dictionaries, in_large_strings, in_string_views, streamed,
    streamed_dictionaries, in_three_files,
]  # fmt: skip


def made(store: Callable[[Path, Any], dict[str, Any]], folder: Path, table: Any) -> TableData:
    folder.mkdir()
    return TableData(targets=TARGETS, split=TableSplit(column="fold"), batch_size=64, **store(folder, table))


@pytest.fixture(scope="module")
def expected(table: Any, tmp_path_factory: pytest.TempPathFactory) -> TableData:
    return made(in_csv, tmp_path_factory.mktemp("csv") / "t", table)


def test_the_schema_is_that_of_the_training_rows(expected: TableData, table: Any) -> None:
    schema = expected.schema
    own = table.slice(0, TRAIN)
    assert list(schema["numeric"]) == ["x", "paid", "note"]
    assert schema["numeric"]["x"]["std"] == pytest.approx(np.std(own["x"].to_numpy()))
    assert schema["categorical"] == {
        "code": ["1", "2", "3", "4"],
        "city": ["Jena", "Ulm"],
        "member": ["false", "true"],
    }
    assert schema["targets"]["kind"]["values"] == ["a", "b", "c"]
    assert schema["targets"]["sold"]["values"] == ["no", "yes"]
    assert schema["targets"]["price"]["mean"] == pytest.approx(np.nanmean(own["price"].to_numpy()))
    assert schema["reads"] == {"paid": {"thousands": ","}, "member": {"bools": True}}
    assert schema["missing"] == {"city": own["city"].to_pylist().count("NA"), "price": 30}
    assert "NA" in schema["missing_values"]


@pytest.mark.parametrize("store", STORAGES, ids=lambda store: store.__name__)
def test_a_table_has_one_schema_in_all_storages(
    store: Callable[[Path, Any], dict[str, Any]], expected: TableData, table: Any, tmp_path: Path
) -> None:
    data = made(store, tmp_path / "t", table)
    found, wanted = dict(data.schema), dict(expected.schema)
    assert found.pop("ignored").keys() == wanted.pop("ignored").keys()
    assert found == wanted


@pytest.mark.parametrize("store", STORAGES, ids=lambda store: store.__name__)
def test_a_table_gives_the_same_rows_from_all_storages(
    store: Callable[[Path, Any], dict[str, Any]], table: Any, tmp_path: Path
) -> None:
    own = table.slice(0, TRAIN)
    calm = pa.concat_tables([own, own.slice(0, ROWS - TRAIN)]).combine_chunks()
    calm = calm.set_column(calm.schema.names.index("fold"), "fold", table["fold"])
    batch, like = (next(iter(made(s, tmp_path / s.__name__, calm).val_dataloader())) for s in (store, in_csv))
    assert batch["targets"].keys() == like["targets"].keys()
    for name, tensor in like["inputs"].items():
        torch.testing.assert_close(batch["inputs"][name], tensor, rtol=0, atol=0, equal_nan=True)
    for name, tensor in like["targets"].items():
        torch.testing.assert_close(batch["targets"][name], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("store", [in_csv, *STORAGES], ids=lambda store: store.__name__)
def test_classes_of_other_splits_are_none(
    store: Callable[[Path, Any], dict[str, Any]], table: Any, tmp_path: Path
) -> None:
    """All training rows have one class; another is in validation and test."""
    single = table.set_column(
        table.schema.names.index("sold"), "sold", pa.array(["yes"] * TRAIN + ["no"] * (ROWS - TRAIN))
    )
    data = made(store, tmp_path / "t", single)
    with pytest.raises(ValueError, match=r"Target 'sold': expected at least 2 classes .*found \['yes'\]"):
        _ = data.schema
