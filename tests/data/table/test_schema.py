"""The schema, fitted a piece at a time and applied to other rows."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtl_lightning.data import TableColumns, TableEncoder, TableFitter, TargetColumn
from mtl_lightning.data.table.words import described
from mtl_lightning.encoding.cells import CellError
from mtl_lightning.plain import check_plain
from mtl_lightning.types import ConfigurationError, DataError, TableSpec, input_spec_from_dict

TABLE = pa.table(
    {
        "x": [1.0, 2.0, None, 4.0],
        "big": ["0", "9", "99", ""],
        "city": ["Ulm", "Jena", "Ulm", None],
        "price": [10.5, 20.0, None, 60.0],
        "kind": ["hut", "flat", None, "villa"],
        "sold": [1, 0, 1, None],
        "w": [1.0, 2.0, 0.5, 0.0],
    }
)
TARGETS = {"price": TargetColumn(), "kind": TargetColumn(kind="classes"), "sold": TargetColumn()}


def fit(table: Any = TABLE, **declared: Any) -> dict[str, Any]:
    fitter = TableFitter(TableColumns(**{"targets": TARGETS, "weights": "w", **declared}))
    for batch in table.to_batches(max_chunksize=3):
        fitter.update(batch)
    schema = fitter.finish()
    check_plain(schema, "schema")
    return schema


def column(values: list[Any], rows: int | None = None) -> dict[str, Any]:
    """A table with one feature and a target that is no matter."""
    return {"f": values, "y": [0.5 * i for i in range(len(values))]}


def guessed(values: Any) -> str | None:
    """What a feature is taken for."""
    schema = fit(pa.table(column(list(values))), targets={"y": TargetColumn()}, weights=None, ignore=[])
    return next((kind for kind in ("numeric", "categorical") if "f" in schema[kind]), None)


# ----------------------------------------------------------------------------------------------------------- by hand
def test_a_small_table_by_hand() -> None:
    schema = fit(log1p=["big"], numeric=["x"])
    spec = input_spec_from_dict(schema["input_spec"])
    assert isinstance(spec, TableSpec)
    assert spec == TableSpec(("x", "big"), {"city": 3}, quantiles=spec.quantiles)
    encoded = TableEncoder(schema).encode(TABLE)
    x = np.array([1, 2, np.nan, 4])
    big = np.log1p([0, 9, 99, np.nan])
    expected = np.stack([(v - np.nanmean(v)) / np.nanstd(v) for v in (x, big)], 1)
    np.testing.assert_allclose(encoded["inputs"]["numeric"].numpy(), expected, rtol=1e-6)
    assert (
        spec.quantiles
        == {  # three numbers each, all but the first of which begin a share
            name: pytest.approx(np.sort(column)[1:3]) for name, column in zip(("x", "big"), expected.T, strict=True)
        }
    )
    assert encoded["inputs"]["categorical"].tolist() == [[2], [1], [2], [0]]
    targets = encoded["targets"]
    np.testing.assert_array_equal(targets["price"].numpy(), np.array([10.5, 20, np.nan, 60]))
    assert targets["kind"].tolist() == [1, 0, -100, 2]
    assert targets["sold"].tolist() == [1, 0, 1, -100]
    assert isinstance(encoded["weights"], torch.Tensor)
    assert encoded["weights"].tolist() == [1.0, 2.0, 0.5, 0.0]
    assert (targets["price"].dtype, targets["kind"].dtype) == (torch.float32, torch.int64)
    assert schema["targets"]["price"]["mean"] == pytest.approx(90.5 / 3)
    assert schema["targets"]["price"]["std"] == pytest.approx(np.std([10.5, 20, 60]))


def test_the_schema_does_not_depend_on_the_pieces() -> None:
    random = np.random.default_rng(0)
    table = pa.table(
        {"a": random.normal(1e6, 1, 1000), "b": random.choice(["x", "y", "z"], 1000), "y": random.normal(size=1000)}
    )
    columns = TableColumns(targets={"y": TargetColumn()})
    schemas = []
    for size in (7, 100, 1000):
        fitter = TableFitter(columns)
        for batch in table.take(random.permutation(1000)).combine_chunks().to_batches(max_chunksize=size):
            fitter.update(batch)
        schemas.append(fitter.finish())
    for schema in schemas:
        assert schema["categorical"] == schemas[0]["categorical"]
        assert schema["numeric"]["a"]["mean"] == pytest.approx(np.mean(table["a"].to_numpy()), rel=1e-12)
        assert schema["numeric"]["a"]["std"] == pytest.approx(np.std(table["a"].to_numpy()), rel=1e-9)


def test_other_rows_are_encoded_by_the_schema_alone() -> None:
    encoder = pickle.loads(pickle.dumps(TableEncoder(fit(numeric=["x"]))))
    other = pa.table(
        {"city": ["Bonn", "Jena"], "more": [1, 2], "big": [5, None], "x": [7, 7]}
    )  # another order, no targets
    encoded = encoder.encode(other, targets=False)
    assert set(encoded) == {"inputs"}
    assert encoded["inputs"]["categorical"][:, list(encoder.schema["categorical"]).index("city")].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"a column 'city'.*found \['x', 'big', 'citty'\]. Did you mean 'citty'"):
        encoder.encode(pa.table({"x": [1.0], "big": [1], "citty": ["a"]}), targets=False)


def test_removed_tasks_are_not_encoded_and_missing_labels_are_the_tasks_own() -> None:
    schema = fit(weights={"kind": "w", "sold": "x"}, ignore=[])
    encoder = TableEncoder(schema, {"kind": 255, "price": -100})
    encoded = encoder.encode(TABLE)
    assert list(encoded["targets"]) == ["price", "kind"]
    assert encoded["targets"]["kind"].tolist() == [1, 0, 255, 2]
    assert list(encoded["weights"]) == ["kind"]
    assert "sold" not in encoder.needed(targets=True)


# ------------------------------------------------------------------------------------------------------------- guesses
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"] * 60, "categorical"),
        ([1, 2, 3] * 40, "categorical"),
        (["1", "2", "3"] * 40, "categorical"),
        ([1.5, 2.5] * 60, "numeric"),
        (np.random.default_rng(0).integers(0, 50, 120), "numeric"),
        ([f"name {i}" for i in range(120)], None),
        (range(1000, 1120), None),  # row numbers
        ([None] * 60 + ["", ""] * 30, None),
        ([True, False] * 60, "categorical"),
        ([str(i) for i in range(5, 0, -1)], "numeric"),  # too few rows for their values
        ([*range(15)] * 2, "numeric"),
        ([*range(15)] * 10, "categorical"),
        (["true", "False"] * 60, "categorical"),
        (["2024-01-31", "2023-05-01"] * 60, "numeric"),
    ],
)
def test_the_kind_of_a_feature_is_guessed(values: Any, kind: str | None) -> None:
    if kind is None:
        with pytest.raises(ConfigurationError, match="Expected columns to learn from, found none"):
            guessed(values)
    else:
        assert guessed(values) == kind


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["no", "yes", None], "classes", ["no", "yes"]),
        ([0.0, 1.0, None], "classes", ["0", "1"]),
        (["10", "9", "8"] * 10, "classes", ["8", "9", "10"]),
        (["10", "9", "8"], "number", None),  # too few rows for their values
        (["False", "TRUE", "true"], "classes", ["false", "true"]),
        (["$1,200.50", "$3.00", "$1,000,000"], "number", None),
        ([0.5, 1.5, 2.5], "number", None),
        (list(range(30, 0, -1)), "number", None),
        ([f"c{i}" for i in range(30)] * 10, "classes", sorted(f"c{i}" for i in range(30))),
    ],
)
def test_the_kind_of_a_target_is_guessed(values: Any, kind: str, classes: list[str] | None) -> None:
    table = pa.table({"y": values, "f": ["a", "b"] * (len(values) // 2) + ["a"] * (len(values) % 2)})
    schema = fit(table, targets={"y": TargetColumn()}, weights=None, categorical=["f"])
    assert schema["targets"]["y"]["kind"] == kind
    assert schema["targets"]["y"].get("values") == classes
    assert "y: " in described(schema)


def test_targets_may_be_derived_of_a_column() -> None:
    targets = {
        "stars": TargetColumn(column="rating", kind="number"),
        "liked": TargetColumn(column="rating", at_least=4),
        "extreme": TargetColumn(column="rating", positive=["1", "5"]),
    }
    table = pa.table({"rating": [1, 4, None, 5], "f": [0.5, 1.5, 2.5, 3.5]})
    schema = fit(table, targets=targets, weights=None)
    encoded = TableEncoder(schema).encode(table)["targets"]
    assert encoded["liked"].tolist() == [0, 1, -100, 1]
    assert encoded["extreme"].tolist() == [1, 0, -100, 1]
    assert encoded["stars"].nan_to_num(nan=-1).tolist() == [1, 4, -1, 5]
    with pytest.raises(DataError, match=r"Target 'odd': expected some of \['one'\].*found \['1', '4', '5'\]"):
        fit(table, targets={"odd": TargetColumn(column="rating", positive=["one"])}, weights=None)
    with pytest.raises(ConfigurationError, match=r"at most one of \['at_least', 'kind'\]"):
        TargetColumn(at_least=4, kind="number")


def test_rare_categories_count_as_unseen() -> None:
    schema = fit(pa.table(column(["a"] * 5 + ["b"])), targets={"y": TargetColumn()}, weights=None, min_count=2)
    assert schema["categorical"] == {"f": ["a"]}


def test_a_column_that_is_read_both_ways_is_spelled_alike_in_training_and_later() -> None:
    columns = TableColumns(targets={"y": TargetColumn()}, numeric=["zip"], categorical=["zip"])
    fitter = TableFitter(columns)
    assert fitter.needed(["zip", "y"]) == {"zip": "text", "y": "text"}
    table = pa.table({"zip": ["007", "10", "10"], "y": ["0.5", "1.5", "2.5"]})
    fitter.update(table)
    encoder = TableEncoder(fitter.finish())
    assert encoder.needed(targets=False) == {"zip": "text"}
    assert encoder.encode(table)["inputs"]["categorical"].tolist() == [[1], [2], [2]]
    assert encoder.encode(table)["inputs"]["numeric"][0] < 0


def test_a_column_may_be_read_both_ways_and_patterns_give_way_to_names() -> None:
    table = pa.table({"p_1": [1, 2, 2], "p_2": [3, 3, 4], "p_3": [1, 1, 2], "y": [0.1, 0.2, 0.3]})
    declared = {
        "numeric": ["p_*", "p_3"],
        "categorical": ["p_2", "p_3"],
        "weights": None,
        "targets": {"y": TargetColumn()},
    }
    schema = fit(table, **declared)
    assert (list(schema["numeric"]), list(schema["categorical"])) == (["p_1", "p_3"], ["p_2", "p_3"])
    assert not schema["guessed"]
    assert fit(table, **{**declared, "ignore": ["p_3"]})["ignored"] == {"p_3": "declared"}


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"numeric": ["xx"]}, r"found 'xx' in `numeric`"),
        ({"categorical": ["cty"]}, r"found 'cty' in `categorical`. Did you mean 'city'\?"),
        ({"ignore": ["z*"]}, r"found 'z\*' in `ignore`"),
        ({"weights": "ww"}, r"found 'ww' in `weights`. Did you mean 'w'\?"),
        ({"targets": {"prize": TargetColumn()}}, r"found 'prize' in `targets`. Did you mean 'price'\?"),
        ({"numeric": ["price"]}, "'price' holds a target or a weight, found it among the features"),
    ],
)
def test_a_declaration_must_fit_the_columns(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit(**declared)


@pytest.mark.parametrize(
    ("changed", "declared", "message"),
    [
        ({"x": ["1", "2", "oops", "4"]}, {"numeric": ["x"]}, "row 3: column 'x': expected a number, found 'oops'"),
        (
            {"price": ["1", "2", "3", "dear"]},
            {"targets": {"price": TargetColumn(kind="number")}},
            "row 4: column 'price'.*found 'dear'",
        ),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(changed: dict[str, Any], declared: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(pa.table({**TABLE.to_pydict(), **changed}), **declared)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"kind": ["hut", "flat", "igloo", None]},
            r"'kind': expected a class that the training .*found 'igloo'",
        ),
        ({"price": ["1", "2", "dear", ""]}, "column 'price': expected a number, found 'dear'"),
        ({"w": [1.0, 1.0, -1.0, 1.0]}, "column 'w': expected a weight of at least 0, found -1"),
        ({"w": [1.0, 1.0, None, 1.0]}, "column 'w': expected a weight of at least 0, found nan"),
    ],
)
def test_a_label_that_cannot_be_is_named(changed: dict[str, Any], message: str) -> None:
    encoder = TableEncoder(fit())
    with pytest.raises(CellError, match=message) as caught:
        encoder.encode(pa.table({**TABLE.to_pydict(), **changed}))
    assert caught.value.row == 2


@pytest.mark.parametrize("place", [0, 700, 1501])
@pytest.mark.parametrize("name", ["f", "y"])
def test_a_cell_among_numbers_that_is_none_changes_nothing_in_silence(place: int, name: str) -> None:
    columns = {"f": [str(i / 7) for i in range(1502)], "y": [str(i / 3) for i in range(1502)]}
    columns[name][place] = "oops"
    table = pa.table(columns)
    instead = r"`categorical: \[f\]`" if name == "f" else r"`targets: \{y: \{kind: classes\}\}`"
    message = rf"row {place + 1}: column '{name}': expected a number, found 'oops'; of 1502 cells 1 are no numbers: "
    message += rf"'oops' \(1, first in row {place + 1}\).*`missing_values: \['oops'\]`; or declare .*{instead}"
    for size in (1502, 501):
        fitter = TableFitter(TableColumns(targets={"y": TargetColumn()}))
        for batch in table.to_batches(max_chunksize=size):
            fitter.update(batch)
        with pytest.raises(DataError, match=message):
            fitter.finish()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.slice(0, 0), "The training split: expected rows, found none"),
        (
            pa.table({**TABLE.to_pydict(), "kind": ["hut"] * 4}),
            r"Target 'kind': expected at least 2 classes.*\['hut'\]",
        ),
        (pa.table({**TABLE.to_pydict(), "price": [None] * 4}), r"Target 'price': expected at least 2 classes.*\[\]"),
    ],
)
def test_what_cannot_be_learned_from_is_an_error(table: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(table)
