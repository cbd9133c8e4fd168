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

from mtl_lightning.data import (
    ListColumn,
    Streaming,
    TableColumns,
    TableData,
    TableEncoder,
    TableFitter,
    TableSplit,
    TargetColumn,
    TextColumn,
)
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
    words = np.array(["red", "shoes", "blue", "shirt", "für", "Kinder", "new", "sale"])
    tags = [[*random.choice(["a", "b", "c", "7"], n)] for n in random.integers(1, 5, ROWS)]
    tags = [[*some, "new"] * 3 if not inside else some for some, inside in zip(tags, own, strict=True)]
    vector = [[round(float(v), 2) for v in random.normal(0, 1, 3)] for _ in range(ROWS)]
    return pa.table(
        {
            "x": random.normal(0, 1, ROWS),
            "tags": [None if i % 11 == 5 else some for i, some in enumerate(tags)],
            "history": [[int(n) for n in random.integers(10**12, 10**12 + 30, n)] for n in random.integers(1, 4, ROWS)],
            "place": [None if i % 13 == 2 else some for i, some in enumerate(vector)],
            "title": [" ".join(random.choice(words, 6)) + f" {i}" for i in range(ROWS)],
            "user_id": [u if inside else f"new {i}" for i, (u, inside) in enumerate(zip(user, own, strict=True))],
            "item": random.integers(10**12, 10**12 + 30, ROWS),
            "y": random.normal(0, 1, ROWS),
            "fold": np.where(own, "train", np.where(np.arange(ROWS) < 270, "val", "test")),
        }
    )


DECLARED: dict[str, Any] = {
    "hashed": {"user_id": 64, "item": 50},
    "min_count": {"item": 3},
    "lists": {"tags": "|", "history": ListColumn(" ")},
    "vectors": ["place"],
    "text": {"title": TextColumn(buckets=300, length=40)},
    "share": {"item": ["item", "history"]},
}


def _joined(some: list[int]) -> str:
    return " ".join(map(str, some))


def as_texts(table: Any) -> Any:
    """The table with lists as texts: with separators, or in JSON."""
    how: dict[str, Callable[[Any], str]] = {"tags": "|".join, "history": _joined, "place": json.dumps}
    for name, write in how.items():
        texts = [None if some is None else write(some) for some in table[name].to_pylist()]
        table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.string()))
    return table


def as_csv(folder: Path, table: Any) -> dict[str, Any]:
    pyarrow.csv.write_csv(as_texts(table), folder / "t.csv")
    return {"path": str(folder / "t.csv")}


def as_two_csv(folder: Path, table: Any) -> dict[str, Any]:
    for part, rows in enumerate((table.slice(0, 97), table.slice(97))):
        pyarrow.csv.write_csv(as_texts(rows), folder / f"{part}.csv")
    return {"path": str(folder)}


def as_parquet(folder: Path, table: Any, **options: Any) -> dict[str, Any]:
    pq.write_table(table, folder / "t.parquet", row_group_size=90)
    return {"path": str(folder / "t.parquet"), **options}


def as_parquet_of_texts(folder: Path, table: Any) -> dict[str, Any]:
    return as_parquet(folder, as_texts(table))


def as_large_lists(folder: Path, table: Any) -> dict[str, Any]:
    kinds = {"tags": pa.large_list(pa.large_string()), "place": pa.list_(pa.float64(), 3)}
    for name, kind in kinds.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    try:
        made = as_parquet(folder, table)
        pq.read_table(made["path"])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        pytest.skip(f"Arrow {pa.__version__} cannot keep missing lists of a fixed size: {error}")
    return made


def as_stream(folder: Path, table: Any) -> dict[str, Any]:
    return as_parquet(folder, table, stream=Streaming(buffer_rows=70))


STORAGES: list[Callable[[Path, Any], dict[str, Any]]] = [
    as_two_csv, as_parquet, as_parquet_of_texts, as_large_lists, as_stream,
]  # fmt: skip


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
    assert [*data.schema["kinds"]] == ["user_id", "item", "tags", "history", "place", "title"]
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
        told = kinds_of_drift(drift)
        assert {("user_id", "unseen"), ("tags", "unseen"), ("tags", "cut")} <= told
        assert ("x", "missing") not in told


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


# --------------------------------------------------------------------------------------------------------------- lists
LISTS = pa.table({"tags": [["a", "b"], [], None, ["c", "a", "c"]]})


def test_a_list_is_the_codes_of_its_elements() -> None:
    schema = fitted(LISTS, lists={"tags": ListColumn()})
    assert schema["kinds"]["tags"]["values"] == ["a", "b", "c"]
    assert encoded(schema, LISTS)["lists"].tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0], [3, 1, 3]]
    assert schema["input_spec"]["table"]["lists"] == {"tags": [4, 3]}
    assert schema["missing"] == {"tags": 1}


def test_an_empty_list_is_no_gap() -> None:
    schema = fitted(pa.table({"tags": [["a"], ["b"]]}), lists={"tags": ListColumn()})
    _, drift, _ = lenient(schema, pa.table({"tags": pa.array([[]] * 50, pa.list_(pa.string()))}))
    assert not drift.found()
    _, drift, _ = lenient(schema, pa.table({"tags": pa.array([None] * 50, pa.list_(pa.string()))}))
    assert kinds_of_drift(drift) == {("tags", "missing")}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, 2], [None, 3]]),
        pa.array([[1.0, 2.0], [3.0]]),
        pa.array([["1", " 2 "], ["NA", "3"]]),
        pa.array(["[1, 2]", "[null, 3.0]"]),
        pa.array(['["1", "2"]', '["", "3"]']).dictionary_encode(),
        pa.array([["1", "2"], ["3", None]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    ],
    ids=str,
)
def test_elements_are_spelled_alike_however_they_are_stored(column: Any) -> None:
    schema = fitted(pa.table({"tags": column}), lists={"tags": ListColumn()})
    assert schema["kinds"]["tags"]["values"] == ["1", "2", "3"]
    rows = [{"tags": [1, 2.0]}, {"tags": "[1, 2]"}, {"tags": np.array([1, 2])}, {"tags": ("1", "2")}, {"tags": 3}]
    assert lenient(schema, rows)[0]["lists"].tolist() == [[1, 2]] * 4 + [[3, 0]]


@pytest.mark.parametrize(
    "cell",
    ["[1, [2]]", '[{"a": 1}]', "[1, 2", "1, 2", "[NaN]", "[" * 100_000, f"[{'9' * 10_000}]", '{"a": 1}', "[1] x"],
    ids=lambda cell: cell[:12],
)
def test_a_text_that_is_no_list_is_told(cell: str) -> None:
    good = pa.table({"tags": ["[1, 2]", "[3]"]})
    schema = fitted(good, lists={"tags": ListColumn()})
    bad = pa.table({"tags": ["[1, 2]", cell, "[3]"]})
    with pytest.raises(DataError, match="column 'tags': expected a list"):
        encoded(schema, bad)
    for rows in (bad, bad.to_pylist()):
        found, _, faults = lenient(schema, rows)
        assert faults.unreadable == {"tags": 1}
        assert found["lists"].tolist() == [[1, 2], [0, 0], [3, 0]]


@pytest.mark.parametrize("value", [[["a"]], [{"a": 1}], {"a": 1}, b"a", [b"a"], ..., [...], 1j], ids=repr)
def test_a_value_that_is_no_list_is_told(value: Any) -> None:
    schema = fitted(LISTS, lists={"tags": ListColumn()})
    found, _, faults = lenient(schema, [{"tags": ["a"]}, {"tags": value}])
    assert faults.unreadable == {"tags": 1}
    assert found["lists"].tolist() == [[1, 0, 0], [0, 0, 0]]


def test_mixed_values_are_read_each_by_itself() -> None:
    schema = fitted(pa.table({"tags": ["true|1", "x|2.5"]}), lists={"tags": ListColumn("|")})
    rows = [{"tags": some} for some in ([True, 1.0], ["x", 2.5], "true|1", None, float("nan"), "NA", [None, "x"])]
    found, _, faults = lenient(schema, rows)
    codes = {value: code + 1 for code, value in enumerate(schema["kinds"]["tags"]["values"])}
    one, other = [codes["true"], codes["1"]], [codes["x"], codes["2.5"]]
    assert found["lists"].tolist() == [one, other, one, [0, 0], [0, 0], [0, 0], [codes["x"], 0]]
    assert not faults


def test_long_lists_keep_the_first_and_are_told() -> None:
    table = pa.table({"tags": [[str(i) for i in range(30)], ["1"]]})
    schema = fitted(table, lists={"tags": ListColumn(length=5)})
    assert schema["input_spec"]["table"]["lists"] == {"tags": [31, 5]}
    found, drift, _ = lenient(schema, pa.table({"tags": [["3", "2"] * 50_000, ["1"]]}))
    assert found["lists"].tolist() == [[4, 3, 4, 3, 4], [2, 0, 0, 0, 0]]
    (cut,) = drift.found()
    assert (cut.kind, cut.words) == ("cut", "50 % are lists of more than 5 elements, of which the first are kept")


def test_elements_seldom_met_count_as_new_and_others_may_be_hashed() -> None:
    table = pa.table({"tags": [["a", "b"], ["a"], ["c", "c"]]})
    assert fitted(table, lists={"tags": ListColumn()}, min_count=2)["kinds"]["tags"]["values"] == ["a", "c"]
    schema = fitted(table, lists={"tags": ListColumn(buckets=1000)}, min_count={"t*": 2})
    a, c = (1 + xxhash.xxh3_64_intdigest(text.encode()) % 1000 for text in "ac")
    assert encoded(schema, table)["lists"].tolist() == [[a, 0], [a, 0], [c, c]]


def test_arrows_lists_need_no_declaration() -> None:
    table = pa.table(
        {
            "tags": [["a"], ["b", "a"], []],
            "ids": [[1], [2, 1], [3]],
            "vector": [[1.0, 2.0], [3.0, 4.0], None],
            "fixed": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32(), 2)),
            "json": ['["a"]', "[]", '["b"]'],
            "numbers": ["[1, 2.5]", "[0, 1]", "[5, 5]"],
        }
    )
    schema = fitted(table)
    kinds = {name: known["kind"] for name, known in schema["kinds"].items()}
    assert kinds == {
        "tags": "list", "ids": "list", "vector": "vector", "fixed": "vector", "json": "list", "numbers": "vector",
    }  # fmt: skip
    assert schema["guessed"]["json"] == "lists in JSON"
    assert {"ids", "fixed", "numbers"} <= {*schema["doubts"]}


def test_texts_with_marks_are_doubted() -> None:
    schema = fitted(pa.table({"genres": ["a|b", "a", "b|c", "a|b"] * 5}))
    assert schema["doubts"] == {"genres": "`lists: {genres: '|'}` if they are lists"}


# ------------------------------------------------------------------------------------------------------------- sharing
def test_shared_columns_have_one_vocabulary() -> None:
    table = pa.table({"item": ["a", "b"], "seen": [["c"], ["a", "d"]], "last": ["e", "a"]})
    schema = fitted(table, share={"item": ["item", "seen", "last"]}, lists={"seen": ListColumn()})
    assert schema["categorical"] == {"item": [*"abcde"], "last": [*"abcde"]}
    assert schema["kinds"]["seen"]["values"] == [*"abcde"]
    spec = schema["input_spec"]["table"]
    assert spec["shared"] == dict.fromkeys(("item", "seen", "last"), "item")
    assert spec["categorical"] == {"item": 6, "last": 6}
    assert spec["lists"] == {"seen": [6, 2]}


def test_shared_columns_are_hashed_if_one_is() -> None:
    table = pa.table({"user": ["a", "b"], "friend": ["c", "a"], "friends": ["a c", "d"]})
    schema = fitted(table, share={"u": ["user", "friend*"]}, hashed={"user": 500}, lists={"friends": ListColumn(" ")})
    met = {known["met"] for known in schema["kinds"].values()}
    assert len(met) == 1
    found = encoded(schema, table)
    assert found["categorical"][0, 0] == found["categorical"][1, 1] == found["lists"][0, 0] > 0
    assert schema["input_spec"]["table"]["shared"] == dict.fromkeys(("user", "friend", "friends"), "u")


def test_what_cannot_be_shared() -> None:
    table = pa.table({"a": ["x", "y"], "b": ["x", "y"], "n": [1.5, 2.5]})
    for declared, message in (
        ({"share": {"s": ["a", "n"]}, "numeric": ["n"], "text": {"a": TextColumn()}}, "which is of kind 'text'"),
        ({"share": {"s": ["a", "b"]}, "hashed": {"a": 10, "b": 20}}, "one number of buckets"),
        ({"share": {"s": ["a", "b"], "t": ["a"]}}, "found 'a' in several"),
        ({"share": {"s": ["a", "c"]}}, "found 'c' in `share.s`"),
        ({"share": {"s": ["a", "y"]}}, "holds a target"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            fitted(table, **declared)


# ------------------------------------------------------------------------------------------------------------- vectors
def test_each_dimension_of_a_vector_is_standardised() -> None:
    table = pa.table({"v": [[0.0, 10.0], [2.0, 10.0], None, [None, 10.0]]})
    schema = fitted(table, vectors={"v": None})
    inputs = encoded(schema, table)["numeric"]
    torch.testing.assert_close(inputs, torch.tensor([[-1.0, 0], [1, 0], [np.nan, np.nan], [np.nan, 0]]), equal_nan=True)
    assert schema["input_spec"]["table"]["numeric"] == ["v[0]", "v[1]"]
    assert schema["missing"] == {"v": 1}


def test_moments_of_vectors_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal([5, -3], [2, 0.1], (5000, 2))
    known = fitted(pa.table({"v": [*rows.tolist(), None]}), vectors={"v": None})["kinds"]["v"]
    np.testing.assert_allclose(known["mean"], rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(known["std"], rows.std(0), rtol=1e-12)


@pytest.mark.parametrize("cell", ["[1]", "[1, 2, 3]", '["a", 1]', "[1e39, 1]", "[1, [2]]", "x", "[1, Infinity]"])
def test_what_is_no_vector_is_told(cell: str) -> None:
    schema = fitted(pa.table({"v": ["[1, 2]", "[2, 4]", "[3, 3]"]}), vectors={"v": None})
    bad = pa.table({"v": ["[2, 3]", cell]})
    with pytest.raises(DataError, match="column 'v': expected"):
        encoded(schema, bad)
    for rows in (bad, bad.to_pylist()):
        found, _, faults = lenient(schema, rows)
        assert faults.unreadable == {"v": 1}
        assert np.isnan(found["numeric"]).tolist() == [[False] * 2, [True] * 2]


def test_vectors_of_python_and_numbers_far_outside() -> None:
    schema = fitted(pa.table({"v": [[1.0, 2.0], [2.0, 4.0], [3.0, 3.0]]}))
    rows = [{"v": some} for some in ([1, 2], np.array([1.0, 2.0]), (1, "2"), "[1, 2.0]", [1000, 2])]
    found, drift, faults = lenient(schema, rows)
    assert np.unique(found["numeric"][:4], axis=0).shape == (1, 2)
    assert kinds_of_drift(drift) == {("v", "outside")}
    assert not faults


# ---------------------------------------------------------------------------------------------------------------- text
def test_a_text_is_its_words_and_then_their_letters() -> None:
    table = pa.table({"title": ["Red  SHOES!", "red hat", None, "?!"]})
    schema = fitted(table, text={"title": TextColumn(buckets=10_000)})
    code = {t: 1 + xxhash.xxh3_64_intdigest(t.encode()) % 10_000 for t in ("red", "shoes", "hat", "\0<re", "\0<red>")}
    codes = encoded(schema, table)["lists"]
    assert codes[0, :2].tolist() == [code["red"], code["shoes"]]
    groups = ["<re", "red", "ed>", "<red", "red>", "<red>"]
    assert codes[0, 2:8].tolist() == [1 + xxhash.xxh3_64_intdigest(f"\0{g}".encode()) % 10_000 for g in groups]
    assert codes[1, :2].tolist() == [code["red"], code["hat"]]
    assert not codes[2:].any()
    assert schema["missing"] == {"title": 1}
    alone = fitted(table, text={"title": TextColumn(buckets=10_000, ngrams=None)})
    assert encoded(alone, table)["lists"].tolist() == [*codes[:2, :2].tolist(), [0, 0], [0, 0]]


def test_variants_of_unicode_are_one_text() -> None:
    table = pa.table({"title": ["Caf\u00e9 fin", "x y"]})
    schema = fitted(table, text={"title": TextColumn()})
    same = encoded(schema, pa.table({"title": ["Caf\u00e9 fin", "cafe\u0301 FIN", "CAF\u00c9 \ufb01n"]}))["lists"]
    assert len({*map(tuple, same.tolist())}) == 1


def test_a_text_without_a_known_word_is_new_and_a_long_one_is_cut_as_in_training() -> None:
    schema = fitted(pa.table({"title": ["red shoes", "blue hat"]}), text={"title": TextColumn(ngrams=None)})
    huge = "zebra " * 100_000
    found, drift, _ = lenient(schema, [{"title": huge}, {"title": "a red zebra"}, {"title": "x" * 10**6}])
    assert found["lists"].shape == (3, 2)
    assert kinds_of_drift(drift) == {("title", "unseen")}
    assert next(one.cells for one in drift.found() if one.kind == "unseen") == 2


def test_text_that_seldom_repeats_is_guessed_as_such() -> None:
    rows = 200
    table = pa.table(
        {
            "title": [f"some words of number {i}" for i in range(rows)],
            "name": [f"name{i}" for i in range(rows)],
            "city": ["Bad Homburg vor der Höhe", "Ulm an der Donau"] * (rows // 2),
        }
    )
    schema = fitted(table)
    assert [*schema["kinds"]] == ["title"]
    assert schema["kinds"]["title"] == fitted(table, text={"title": TextColumn()})["kinds"]["title"]
    assert [*schema["ignored"]] == ["name"]
    assert [*schema["categorical"]] == ["city"]
    assert "title" in schema["doubts"]


def test_lists_in_lists_without_end_are_told() -> None:
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    columns = {"tags": [["a"], ["b"]], "v": [[1.0], [2.0]], "id": ["a", "b"], "c": ["a", "b"], "n": [0.5, 1.5]}
    schema = fitted(pa.table(columns), hashed={"id": 10})
    _, _, faults = lenient(schema, [dict.fromkeys(columns, deep)])
    assert faults.unreadable == dict.fromkeys(columns, 1)
    assert faults.shown["tags"] == [(0, "a list")]
