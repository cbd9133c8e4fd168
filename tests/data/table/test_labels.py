"""Kinds of targets, targets that are derived, and labels that count only somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from jsonargparse import ArgumentParser

from mtl_lightning import tasks
from mtl_lightning.data import Streaming, TableColumns, TableData, TableEncoder, TableFitter, TableSplit, TargetColumn
from mtl_lightning.data.table.conditions import declared_conditions
from mtl_lightning.data.table.targets import declared_targets, declared_task
from mtl_lightning.data.table.words import described
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import ConfigurationError, DataError, TargetSpec

NAN = float("nan")
TABLE = pa.table(
    {
        "f": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "visits": [0, 2, None, 1, 5, 0],
        "days": [1.0, 2.0, 3.0, None, 0.5, 4.0],
        "stars": ["good", "poor", "fair", None, "good", "fair"],
        "time": [3.0, 0.0, 7.5, 2.0, None, 1.0],
        "left": [True, False, True, None, True, False],
        "clicked": [1, 0, 1, None, 1, 1],
        "bought": ["yes", "?", "no", "yes", "no", "yes"],
        "amount": [10.0, -5.0, 1.0, 1000.0, None, 100.0],
    }
)


def fitted(targets: dict[str, Any], table: Any = TABLE, only_where: Any = None, **declared: Any) -> TableEncoder:
    """The encoder of a table whose schema was fitted in pieces."""
    columns = {name: TargetColumn(**target) for name, target in targets.items()}
    where = declared_conditions(only_where or {}, columns)
    fitter = TableFitter(TableColumns(columns, numeric=["f"], only_where=where, **declared))
    for batch in table.to_batches(max_chunksize=4):
        fitter.update(batch)
    return TableEncoder(fitter.finish())


def encoded(targets: dict[str, Any], table: Any = TABLE, **declared: Any) -> dict[str, Any]:
    """The targets of a table, nan as None."""
    found = fitted(targets, table, **declared).encode(table)["targets"]
    return {name: _plain(target.tolist()) for name, target in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value != value else value


# ----------------------------------------------------------------------------------------------------------- by hand
def test_each_kind_of_target_by_hand() -> None:
    found = encoded(
        {
            "visits": {"kind": "count"},
            "rate": {"column": "visits", "exposure": "days"},
            "stars": {"order": ["poor", "fair", "good", "superb"]},
            "left_at": {"column": "time", "event": "left"},
            "level": {"column": "visits", "kind": "ordinal"},
        }
    )
    assert found["visits"] == [0, 2, None, 1, 5, 0]
    gap = [None, None]
    assert found["rate"] == [[0, 1], [2, 2], gap, gap, [5, 0.5], [0, 4]]
    assert found["stars"] == [2, 0, 1, -100, 2, 1]
    assert found["left_at"] == [[3, 1], [0, 0], [7.5, 1], gap, gap, [1, 0]]
    assert found["level"] == [0, 2, -100, 1, 3, 0]


def test_derived_targets_by_hand() -> None:
    targets = {
        "silent": {"column": "stars", "is_missing": True},
        "log_days": {"column": "days", "log": True},
        "extra": {"column": "time", "minus": "days"},
        "long": {"column": "days", "at_least": 2},
    }
    encoder = fitted(targets)
    found = encoder.encode(TABLE)["targets"]
    assert found["silent"].tolist() == [0, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(found["log_days"], np.log([1, 2, 3, NAN, 0.5, 4]), rtol=1e-6)
    np.testing.assert_allclose(found["extra"], [2, -2, 4.5, NAN, NAN, -3])
    known = encoder.schema["targets"]
    assert known["extra"]["mean"] == pytest.approx(0.375)
    assert known["log_days"]["std"] == pytest.approx(np.nanstd(np.log([1, 2, 3, 0.5, 4])))
    assert (known["silent"]["counts"], known["long"]["counts"]) == ([5, 1], [2, 3])
    assert declared_task("log_days", known["log_days"])[0].units == "log of days"
    assert declared_task("extra", known["extra"])[0].units == "time - days"
    told = described(encoder.schema)
    for words in ("is 'stars' missing?", "the logarithm of 'days'", "'time' - 'days'"):
        assert words in told


def test_differences_of_dates_are_seconds() -> None:
    days = {"ordered": ["2024-01-01", "2024-01-05", ""], "arrived": ["2024-01-03", "2024-01-06", "2024-02-01"]}
    table = pa.table({**days, "f": [0.1, 0.2, 0.3]})
    found = encoded({"took": {"column": "arrived", "minus": "ordered"}}, table)
    assert found["took"] == [2 * 86400, 86400, None]


def test_numbers_as_people_write_them_are_derived_alike() -> None:
    table = pa.table({"paid": ["$10.00", "$1,200.50", "$3.00"], "cost": ["1", "2", "3"], "f": [0.1, 0.2, 0.3]})
    targets = {
        "gain": {"column": "paid", "minus": "cost"},
        "log_paid": {"column": "paid", "log": True},
        "dear": {"column": "paid", "at_least": 10},
    }
    encoder = fitted(targets, table)
    found = encoder.encode(table)["targets"]
    np.testing.assert_allclose(found["gain"], [9, 1198.5, 0])
    np.testing.assert_allclose(found["log_paid"], np.log([10, 1200.5, 3]), rtol=1e-6)
    assert encoder.schema["targets"]["gain"]["mean"] == pytest.approx(402.5)
    assert encoder.schema["targets"]["dear"]["counts"] == [1, 2]


def test_levels_and_positive_values_may_be_numbers() -> None:
    targets = {"a": {"column": "visits", "order": [0, 1, 2.0, 5]}, "b": {"column": "days", "positive": [2, 0.5]}}
    found = encoded(targets)
    assert found == {"a": [0, 2, -100, 1, 3, 0], "b": [0, 1, 0, -100, 1, 0]}


def test_the_counts_of_classes_are_in_the_schema() -> None:
    known = fitted({"stars": {"kind": "classes"}, "ok": {"column": "stars", "positive": ["good", "fair"]}}).schema
    assert known["targets"]["stars"]["values"] == ["fair", "good", "poor"]
    assert known["targets"]["stars"]["counts"] == [2, 2, 1]
    assert known["targets"]["ok"]["counts"] == [1, 4]


# -------------------------------------------------------------------------------------------------------- only where
@pytest.mark.parametrize("value", [1, True, "1", [1.0], ["true", "x"]])
def test_labels_count_only_where_a_column_holds_a_value(value: Any) -> None:
    encoder = fitted(
        {"bought": {"kind": "classes"}, "spent": {"column": "amount", "kind": "number"}},
        only_where={"bought": {"clicked": value}, "spent": {"clicked": value, "bought": "yes"}},
    )
    found = encoder.encode(TABLE)["targets"]
    assert found["bought"].tolist() == [1, -100, 0, -100, 0, 1]  # the row with `?`, no class, does not count
    assert _plain(found["spent"].tolist()) == [10, None, None, None, None, 100]
    known = encoder.schema["targets"]
    assert (known["bought"]["values"], known["bought"]["counts"]) == (["no", "yes"], [2, 2])
    assert (known["spent"]["mean"], known["spent"]["std"]) == (55, 45)
    assert encoder.schema["ignored"]["clicked"] == "says where labels count"
    assert "where 'clicked' is" in described(encoder.schema)


def test_a_condition_may_be_another_target_and_holds_down_the_chain() -> None:
    targets = {
        "long": {"column": "days", "at_least": 2},
        "bought": {"positive": ["yes"]},
        "spent": {"column": "amount", "kind": "number"},
    }
    found = encoded(targets, only_where={"bought": {"long": 1}, "spent": {"bought": True}})
    assert found["long"] == [0, 1, 1, -100, 0, 1]
    assert found["bought"] == [-100, 0, 0, -100, -100, 1]
    assert found["spent"] == [None] * 5 + [100]


def test_conditions_of_removed_tasks_hold() -> None:
    targets = {"long": {"column": "days", "at_least": 2}, "amount": {"kind": "number"}}
    schema = fitted(targets, only_where={"amount": {"long": 1}}).schema
    encoder = TableEncoder(schema, {"amount": -100})
    needed = encoder.needed(targets=True)
    assert {needed[name] for name in ("f", "amount", "days")} == {"number"}
    assert _plain(encoder.encode(TABLE)["targets"]["amount"].tolist()) == [None, -5, 1, None, None, 100]


@pytest.mark.parametrize(
    ("only_where", "message"),
    [
        ({"bougt": {"clicked": 1}}, "`only_where`: .*'bougt'.*Did you mean 'bought'"),
        ({"bought": {"cliked": 1}}, "found 'cliked' in `only_where`. Did you mean 'clicked'"),
        ({"bought": 1}, "expected {task: {column or task: value}}"),
        ({"bought": {"clicked": []}}, "expected values of 'clicked'"),
        ({"bought": {"left": 1}, "left": {"bought": 1}}, "bought -> left -> bought"),
        ({"bought": {"change": 1}}, "found 'change'. Name a column"),
        ({"bought": {"clicked": "2"}}, r"rows where 'clicked' is '2', found none; met: \['1', '0'\] in"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_hold_are_refused(only_where: Any, message: str) -> None:
    targets = {
        "bought": {"kind": "classes"},
        "left": {"kind": "classes"},
        "change": {"column": "amount", "minus": "time"},
    }
    with pytest.raises((ConfigurationError, DataError), match=message):
        fitted(targets, only_where=only_where)


# ------------------------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("target", "changed", "message"),
    [
        ({"column": "y", "kind": "count"}, [1, 2, -3], "'y': expected a count.*found -3"),
        ({"column": "y", "kind": "count"}, [1, 2, 1.5], "'y': expected a count.*found 1.5"),
        ({"column": "n", "exposure": "y"}, [1, 2, 0], "'y': expected an exposure above 0, found 0"),
        ({"column": "y", "event": "e"}, [1, 2, -1], "'y': expected a time of at least 0, found -1"),
        ({"column": "n", "event": "y"}, [0, 1, 2], r"'y': expected 1 \(true\) where.*found '2'"),
        ({"column": "y", "log": True}, [1, 2, 0], "'y': expected a number above 0, of which.*found 0"),
    ],
)
def test_a_label_that_cannot_be_is_told_with_file_and_row(
    target: dict[str, Any], changed: list[float], message: str, tmp_path: Path
) -> None:
    """In training while the schema is fitted, in other rows while they are read."""
    good = pa.table({"f": [0.1, 0.2, 0.3], "n": [1, 2, 3], "e": [0, 1, 1], "y": [1.0, 1.0, 1.0]})
    bad = good.set_column(3, "y", pa.array(changed))
    for name, table in {"good": good, "bad": bad}.items():
        pyarrow.csv.write_csv(table, tmp_path / f"{name}.csv")
    declared = {"targets": {"t": TargetColumn(**target)}, "numeric": ["f"]}
    with pytest.raises(DataError, match=rf"bad.csv, row 3: column {message}"):
        _ = TableData(train=str(tmp_path / "bad.csv"), **declared).schema  # type: ignore[arg-type]  # as in YAML
    data = TableData(train=str(tmp_path / "good.csv"), val=str(tmp_path / "bad.csv"), **declared)  # type: ignore[arg-type]  # as in YAML
    data._schema = data.read_schema()
    data.missing_labels = {"t": -100}  # without the task
    with pytest.raises(DataError, match=rf"bad.csv, row 3: column {message}"):
        data.rows("val")
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=rf"bad.parquet, row 3: column {message}"):
        _ = TableData(train=str(tmp_path / "bad.parquet"), stream=True, **declared).schema  # type: ignore[arg-type]  # as in YAML


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"kind": "survival"}, "expected of the time to an event the column `event`"),
        ({"exposure": "a", "event": "b"}, "expected `exposure` with `kind: count`, found it with"),
        ({"order": ["a", "b"], "kind": "number"}, "expected `order` with `kind: ordinal`"),
        ({"order": ["a", "a"]}, "at least 2 different levels"),
        ({"log": True, "minus": "x"}, r"at most one of \['log', 'minus'\]"),
        ({"is_missing": True, "event": "x"}, "`event` with `kind: survival`"),
    ],
)
def test_declarations_that_do_not_go_together(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Target 'y': .*{message}"):
        declared_targets({"y": declared}, {})


def test_levels_need_an_order_and_all_of_it() -> None:
    with pytest.raises(DataError, match=r"'stars': expected levels that are numbers.*order: \[lowest"):
        fitted({"stars": {"kind": "ordinal"}})
    with pytest.raises(DataError, match=r"'stars': expected the levels .* of `order`, found \['poor'\] too"):
        fitted({"stars": {"order": ["fair", "good"]}})
    with pytest.raises(DataError, match="'x': expected column 'bought' to hold something in some"):
        fitted({"x": {"column": "bought", "is_missing": True}})


def test_what_goes_with_a_target_is_no_feature_unless_it_is_declared() -> None:
    targets: dict[str, Any] = {
        "visits": {"exposure": "days"},
        "time": {"event": "left"},
        "change": {"column": "amount", "minus": "f2"},
    }
    table = TABLE.append_column("f2", pa.array([1.0] * 6))
    schema = fitted(targets, table).schema
    assert schema["ignored"] == {"days": "exposure of visits", "f2": "taken from amount"}
    assert list(schema["numeric"]) == ["f"]
    columns = {name: TargetColumn(**target) for name, target in targets.items()}
    roles = TableColumns(columns, numeric=["days", "f2"]).roles(table.schema.names)
    assert roles.numeric == ["days", "f2"]
    with pytest.raises(ConfigurationError, match="'left' holds a target"):
        TableColumns(columns, categorical=["left"]).roles(table.schema.names)
    with pytest.raises(ConfigurationError, match=r"found 'dys' in `targets.visits`. Did you mean 'days'"):
        TableColumns({"visits": TargetColumn(exposure="dys")}).roles(table.schema.names)


def test_a_task_says_how_its_column_is_read() -> None:
    found = declared_targets({}, {"a": Regression, "b": MulticlassClassification, "c": tasks.Ordinal})
    assert [target.kind for target in found.values()] == ["number", "classes", "ordinal"]
    spec, task = declared_task("stars", {"column": "stars", "kind": "ordinal", "values": ["bad", "good"]})
    assert (spec, task) == (TargetSpec(classes=2, names=("bad", "good")), tasks.Ordinal)


@pytest.mark.parametrize("stream", [False, True])
def test_counts_are_learned_from_tables(stream: bool, tmp_path: Path) -> None:
    draw, n = np.random.default_rng(0), 300
    days = draw.random(n) + 0.5
    columns = {
        "f": draw.normal(size=n),
        "calls": draw.poisson(0.4, n),
        "votes": draw.negative_binomial(0.5, 0.05, n),
        "claims": draw.poisson(2 * days),
        "days": days,
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    targets = {"calls": TargetColumn(), "votes": TargetColumn(), "claims": TargetColumn(exposure="days")}
    data = TableData(train=str(tmp_path / "t.parquet"), targets=targets, numeric=["f"], batch_size=n, stream=stream)
    found: Any = data.tasks
    assert {name: type(task) for name, task in found.items()} == dict.fromkeys(targets, tasks.Count)
    forms = {name: task.distribution for name, task in found.items()}
    assert forms == {"calls": "poisson", "votes": "negative_binomial", "claims": "poisson"}
    assert found["claims"].spec == TargetSpec(shape=(2,), names=("count", "exposure"))
    assert float(found["claims"].base_rate) == pytest.approx(np.log(columns["claims"].sum() / days.sum()), rel=1e-5)
    batch = next(iter(data.train_dataloader()))
    assert batch["targets"]["claims"].shape == (n, 2)
    for name, task in found.items():
        task.check(batch["targets"][name])
        assert float(task.count(batch["targets"][name])) == n


# -------------------------------------------------------------------------------------------------- memory and stream
def test_a_streamed_table_gives_the_same_schema_and_labels(tmp_path: Path) -> None:
    random, n = np.random.default_rng(0), 400
    table = pa.table(
        {
            "f": random.normal(size=n),
            "stars": random.choice(["poor", "fair", "good"], n),
            "clicked": random.choice(["1", "0", ""], n),
            "amount": [f"{value:,.2f}" for value in random.normal(5000, 1000, n)],
            "cost": random.normal(2, 1, n).round(3),
            "fold": np.where(np.arange(n) < 300, "train", "val"),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=70)
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    targets = {
        "stars": TargetColumn(order=["poor", "fair", "good"]),
        "gain": TargetColumn(column="amount", minus="cost"),
        "gap": TargetColumn(column="clicked", is_missing=True),
        "much": TargetColumn(column="amount", at_least=5000.0),
        "log_amount": TargetColumn(column="amount", log=True),
    }
    ways: list[dict[str, Any]] = [{"path": str(tmp_path / "t.parquet")}, {"path": str(tmp_path / "t.csv")}]
    ways.append({"path": str(tmp_path / "t.parquet"), "stream": Streaming(buffer_rows=50)})
    found = [
        TableData(
            targets=targets,
            only_where={"gain": {"clicked": 1}, "stars": {"much": True, "clicked": [0, 1]}},
            split=TableSplit(column="fold"),
            batch_size=400,
            **way,
        )
        for way in ways
    ]
    labels = []
    for data in found:
        assert data.schema == found[0].schema
        batch = next(iter(data.val_dataloader()))
        labels.append(batch["targets"])
        assert data.tasks["gain"].state_dict()["target_mean"].item() == pytest.approx(
            data.schema["targets"]["gain"]["mean"]
        )
    clicked = np.array(table["clicked"])[300:]
    amount = np.array([float(text.replace(",", "")) for text in table["amount"].to_pylist()])[300:]
    for other in labels:
        for name, target in other.items():
            torch.testing.assert_close(target, labels[0][name], equal_nan=True, rtol=0, atol=0)
    gain = np.where(clicked == "1", amount - np.array(table["cost"])[300:], NAN)
    np.testing.assert_allclose(labels[0]["gain"], gain, rtol=1e-6)
    assert ((labels[0]["stars"] >= 0).numpy() == ((amount >= 5000) & (clicked != ""))).all()


# ------------------------------------------------------------------------------------------------------------- guesses
@pytest.mark.parametrize("seed", range(3))
def test_what_looks_like_counts_is_told_from_codes_ratings_ages_and_amounts(seed: int) -> None:
    draw, n = np.random.default_rng(seed), 1000
    counts = {
        "rare": draw.poisson(0.1, n),
        "few": draw.poisson(0.5, n),
        "some": draw.poisson(2, n),
        "mixed": draw.poisson(np.exp(draw.normal(-1, 1, n))),
        "scattered": draw.negative_binomial(1, 0.3, n),
        "votes": np.floor(np.exp(draw.normal(3, 2, n))),
    }
    others = {
        "digits": (draw.integers(0, 10, n), "classes"),
        "ratings": (draw.choice([1, 2, 3, 4, 5], n, p=[0.1, 0.1, 0.2, 0.35, 0.25]), "classes"),
        "stars": (draw.choice(6, n, p=[0.05, 0.1, 0.1, 0.2, 0.3, 0.25]), "classes"),
        "codes": (draw.choice(4, n, p=[0.5, 0.3, 0.15, 0.05]), "classes"),
        "ages": (np.clip(draw.gamma(3, 12, n), 0, 95).round(), "number"),
        "incomes": (np.exp(draw.normal(10, 1, n)).round(), "number"),
        "gains": (np.where(draw.random(n) < 0.92, 0, np.exp(draw.normal(8, 1, n)).round()), "number"),
        "weeks": (draw.choice([0, 52, *range(1, 52)], n, p=[0.48, 0.35, *[0.17 / 51] * 51]), "number"),
    }
    columns = counts | {name: values for name, (values, _) in others.items()}
    fitter = TableFitter(TableColumns({name: TargetColumn() for name in columns}, numeric=["f"]))
    fitter.update(pa.table({**columns, "f": draw.normal(size=n)}))
    schema = fitter.finish()
    found = {name: known["kind"] for name, known in schema["targets"].items()}
    assert found == dict.fromkeys(counts, "count") | {name: kind for name, (_, kind) in others.items()}
    for name in (*counts, "digits", "ratings", "codes"):  # never in silence
        assert f"target {name}" in schema["doubts"]
    assert "`kind: ordinal` if they are levels in order" in schema["doubts"]["target ratings"]


# ---------------------------------------------------------------------------------------------------------------- YAML
def test_all_of_it_is_said_in_yaml(tmp_path: Path) -> None:
    pyarrow.csv.write_csv(TABLE, tmp_path / "t.csv")
    written: dict[str, Any] = {
        "train": str(tmp_path / "t.csv"),
        "targets": {
            "stars": {"order": ["poor", "fair", "good"]},
            "level": {"column": "visits", "order": [0, 1, 2, 5]},
            "silent": {"column": "stars", "is_missing": True},
            "extra": {"column": "time", "minus": "days"},
            "bought": {"positive": ["yes", 3]},
        },
        "only_where": {"bought": {"clicked": 1}, "extra": {"bought": True, "left": [False]}},
        "ids": ["amount"],
    }
    parser = ArgumentParser()
    parser.add_subclass_arguments(TableData, "data")
    data = parser.instantiate(
        parser.parse_object({"data": {"class_path": "mtl_lightning.data.TableData", "init_args": written}})
    ).data
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch["targets"]["bought"].tolist()) == [-100, -100, 0, 0, 1, 1]
    assert sorted(batch["targets"]["level"].tolist()) == [-100, 0, 0, 1, 2, 3]
    assert int((~batch["targets"]["extra"].isnan()).sum()) == 1
    assert sorted(batch["ids"]["amount"]) == ["", "-5", "1", "10", "100", "1000"]
    assert data.tasks["stars"].spec.names == ("poor", "fair", "good")
