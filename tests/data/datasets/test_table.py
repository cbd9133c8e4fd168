"""TableData: splits, what is fitted on them, and the way from YAML to predictions."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning import Predictor
from mtl_lightning.data import TableData, TableSplit, TargetColumn
from mtl_lightning.data.table.words import described
from mtl_lightning.plain import check_plain
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, Regression
from mtl_lightning.types import ConfigurationError, DataError, TableSpec
from tests.cli import CONFIGS, only, run
from tests.data.make_tables import houses, write_aliexpress, write_table
from tests.data.shared import shared

TARGETS = ["price", "sold", "kind"]


def whole(data: TableData, split: str) -> Any:
    """All rows of a split as one batch, in order."""
    rows: Any = data.rows(split)  # type: ignore[arg-type]  # a literal
    return rows.__getitems__(range(len(rows)))


def given(data: TableData, name: str) -> np.ndarray:
    """A numeric feature of the training rows, in its own units."""
    known = data.schema["numeric"][name]
    column = whole(data, "train")["inputs"]["numeric"][:, list(data.schema["numeric"]).index(name)]
    return np.asarray(column.double() * known["std"] + known["mean"])


# --------------------------------------------------------------------------------------------------------------- splits
def test_the_splits_of_one_table_have_each_row_once(tmp_path: Path) -> None:
    table = houses(100)
    data = TableData(path=str(write_table(tmp_path / "t.csv", table)), targets=TARGETS, numeric=["id"])
    ids = []
    for split in ("train", "val", "test"):
        known = data.schema["numeric"]["id"]
        numeric = whole(data, split)["inputs"]["numeric"][:, list(data.schema["numeric"]).index("id")]
        found = (numeric.double() * known["std"] + known["mean"]).round().int().tolist()
        assert found == sorted(found)  # in the file's order
        ids.append(found)
    assert [len(found) for found in ids] == [80, 10, 10]
    assert sorted(ids[0] + ids[1] + ids[2]) == table["id"]


def test_a_split_may_have_files_of_its_own(tmp_path: Path) -> None:
    paths = [str(write_table(tmp_path / f"{part}.csv", houses(100, seed=part))) for part in range(3)]
    apart = TableData(train=paths[0], val=paths[1], test=paths[2], targets=TARGETS)
    assert [len(apart.rows(split)) for split in ("train", "val", "test")] == [100, 100, 100]
    two = TableData(path=paths[0], test=paths[2], targets=TARGETS)  # 0.8 : 0.1 of `path`
    assert [len(two.rows(split)) for split in ("train", "val", "test")] == [89, 11, 100]
    with pytest.raises(ConfigurationError, match=r"rows for the split 'val', found neither.*`val: 0.1 of train`"):
        TableData(train=paths[0], targets=TARGETS).val_dataloader()
    with pytest.raises(ConfigurationError, match="a split that has no path of its own"):
        _ = TableData(train=paths[0], path=paths[1], targets=TARGETS, split=TableSplit(fractions=(1, 0, 0))).rows("val")


@pytest.mark.parametrize("share", ["0.1 of train", "10 % of train", ".1 of train"])
def test_validation_may_be_a_share_of_the_training_rows(share: str, tmp_path: Path) -> None:
    paths = [str(write_table(tmp_path / f"{part}.csv", houses(100, seed=part))) for part in range(2)]
    data = TableData(train=paths[0], val=share, test=paths[1], targets=TARGETS, numeric=["id"])
    assert [len(data.rows(split)) for split in ("train", "val", "test")] == [90, 10, 100]
    assert data.schema["rows"] == 90  # nothing is fitted on the others
    again = TableData(train=paths[0], val=share, test=paths[1], targets=TARGETS, numeric=["id"])
    assert torch.equal(whole(again, "val")["inputs"]["numeric"], whole(data, "val")["inputs"]["numeric"])


def test_shares_of_validation_and_test(tmp_path: Path) -> None:
    path = str(write_table(tmp_path / "t.csv", houses(100)))
    data = TableData(train=path, val="0.2 of train", test="0.3 of train", targets=TARGETS)
    assert [len(data.rows(split)) for split in ("train", "val", "test")] == [50, 20, 30]


@pytest.mark.parametrize(
    "options",
    [
        {"val": "0.1 of train"},
        {"val": "0.1 of train", "path": "t.csv"},
        {"train": "t.csv", "val": "0.1 of train", "path": "t.csv"},
        {"train": "t.csv", "val": "1 of train"},
        {"train": "t.csv", "val": "0.5 of train", "test": "0.5 of train"},
        {"train": "t.csv", "val": "0.1 of train", "split": TableSplit(column="fold")},
    ],
)
def test_shares_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match="of train`: expected shares that leave rows of files given as `train`"
    ):
        TableData(targets=TARGETS, **options)


def test_nothing_of_validation_and_test_is_fitted(tmp_path: Path) -> None:
    """Rows of the other splits come from another world: numbers, categories and targets that would show."""
    table = houses(300)
    fold = np.array(["train", "val", "test"])[np.arange(300) % 3]
    other = fold != "train"
    table["area"] = list(np.where(other, 1e6, table["area"]))
    table["city"] = list(np.where(other, "Atlantis", table["city"]))
    table["price"] = list(np.where(other, -1e6, table["price"]))
    table["fold"] = list(fold)
    data = TableData(path=str(write_table(tmp_path / "t.csv", table)), targets=TARGETS, split=TableSplit(column="fold"))
    price = data.tasks["price"]
    area = np.asarray(table["area"])[~other]
    assert data.schema["numeric"]["area"]["mean"] == pytest.approx(area.mean())
    assert data.schema["numeric"]["area"]["std"] == pytest.approx(area.std())
    assert data.schema["categorical"]["city"] == ["Bonn", "Jena", "Ulm"]
    assert isinstance(price, Regression)
    assert price.target_mean.item() == pytest.approx(np.mean(np.asarray(table["price"])[~other]))
    assert "fold" not in {*data.schema["numeric"], *data.schema["categorical"]}
    for split in ("val", "test"):
        city = list(data.schema["categorical"]).index("city")
        assert set(whole(data, split)["inputs"]["categorical"][:, city].tolist()) == {0}


def test_an_empty_split_says_so(tmp_path: Path) -> None:
    path = str(write_table(tmp_path / "t.csv", houses(40)))
    data = TableData(path=path, targets=TARGETS, split=TableSplit(fractions=(1, 0, 0)))
    assert len(data.rows("train")) == 40
    with pytest.raises(
        DataError, match=r"rows in the split 'val' of .*t.csv, found none.*`val: 0.1 of train`.*fractions: \[0.8"
    ):
        data.val_dataloader()
    (tmp_path / "header.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="training split: expected rows, found none"):
        _ = TableData(path=str(tmp_path / "header.csv"), targets=["b"]).schema


# ---------------------------------------------------------------------------------------------------- tasks and weights
def test_targets_become_tasks_and_tasks_become_targets(tmp_path: Path) -> None:
    path = str(write_table(tmp_path / "t.csv", houses(200, missing=0.2)))
    data = TableData(path=path, targets=["price", "sold"], tasks={"kind": MulticlassClassification, "price": None})
    assert {name: type(task) for name, task in data.tasks.items()} == {
        "sold": BinaryClassification,
        "kind": MulticlassClassification,
    }
    assert data.tasks["kind"].spec.names == ("flat", "hut", "villa")
    assert isinstance(data.input_spec, TableSpec)
    assert not {"price", "sold", "kind"} & {*data.input_spec.numeric, *data.input_spec.categorical}
    batch = whole(data, "train")
    assert list(batch["targets"]) == ["sold", "kind"]
    assert (batch["targets"]["kind"] == -100).sum() > 10
    number = TableData(path=path, tasks={"rooms": partial(Regression, loss="l1")}, ignore=TARGETS)
    assert number.schema["targets"]["rooms"]["kind"] == "number"  # 6 different integers, but the task takes numbers
    assert whole(number, "val")["targets"]["rooms"].dtype == torch.float32
    with pytest.raises(ConfigurationError, match="expected `targets` or `tasks`, found neither"):
        _ = TableData(path=path).schema


def test_targets_by_name_and_weights_by_task(tmp_path: Path) -> None:
    table = houses(50)
    table["w"] = [0.5 + i for i in range(50)]
    data = TableData(
        train=str(write_table(tmp_path / "t.csv", table)),
        targets={"price": TargetColumn(kind="number"), "big": TargetColumn(column="price", at_least=300)},
        weights={"big": "w"},
        ignore=["sold", "kind"],
    )
    assert [*data.tasks] == ["price", "big"]
    batch = whole(data, "train")
    assert batch["targets"]["big"].tolist() == [int(price >= 300) for price in table["price"]]
    assert {task: weight.tolist() for task, weight in batch["weights"].items()} == {"big": table["w"]}
    as_in_yaml: Any = {"price": {"kind": "number"}, "big": {"column": "price", "at_least": 300}}
    again = TableData(train=str(tmp_path / "t.csv"), targets=as_in_yaml, weights={"big": "w"}, ignore=["sold", "kind"])
    assert again.schema == data.schema


def test_what_was_guessed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _ = TableData(path=str(write_table(tmp_path / "t.csv", houses(300))), targets=TARGETS).schema
    for expected in (
        "area (numbers)",
        "rooms? (6 different integers)",
        "doubtful, marked `?`: rooms: `numeric: [rooms]` if they are amounts",
        "id (rises",
        "target kind: 3 classes",
        "guessed",
    ):
        assert expected in caplog.text


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2.5,3,Ulm", r"b.csv, row 2: expected 8 fields, found 4"),
        ("1,dear,3,Ulm,s,10.5,yes,hut", r"b.csv, row 2: column 'area': expected a number, found 'dear'"),
        ("1,2.5,3,Ulm,s,dear,yes,hut", r"b.csv, row 2: column 'price': expected a number, found 'dear'"),
        ("1,2.5,3,Ulm,s,10.5,perhaps,hut", r"b.csv, row 2: column 'sold': expected a class .*found 'perhaps'"),
    ],
)
def test_an_error_names_file_and_row(tmp_path: Path, line: str, message: str) -> None:
    write_table(tmp_path / "v" / "a.csv", houses(20))
    path = write_table(tmp_path / "v" / "b.csv", houses(20))
    first, second, _, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, second, line, *rest]) + "\n")
    train = str(write_table(tmp_path / "t.csv", houses(100)))
    data = TableData(train=train, val=str(tmp_path / "v"), targets=TARGETS, numeric=["area"])
    with pytest.raises(DataError, match=message):
        data.val_dataloader()


def test_an_error_names_the_row_of_the_file_though_splits_leave_rows_out(tmp_path: Path) -> None:
    table = houses(100)
    table["area"][77] = "large"
    fold = np.array(["train"] * 100)
    fold[:77] = "test"
    table["fold"] = list(fold)
    path = str(write_table(tmp_path / "t.csv", table))
    data = TableData(path=path, targets=["area"], tasks={"area": Regression}, split=TableSplit(column="fold"))
    with pytest.raises(DataError, match=r"t.csv, row 78: column 'area': expected a number, found 'large'"):
        _ = data.schema


# ------------------------------------------------------------------------------------------- from YAML to predictions
CONFIG = """
seed_everything: 0
data:
  class_path: TableData
  init_args:
    path: houses/*.csv
    targets: [price, sold, kind]
    ignore: [id]
    split: {fractions: [0.7, 0.15, 0.15], group: street, stratify: sold}
    batch_size: 64
model:
  architecture:
    class_path: SharedBottom
    init_args: {encoder: {class_path: TabularEncoder}}
  balancer: {class_path: UncertaintyWeighting}
  optimizers:
    default: {class_path: Adam, init_args: {lr: 1.0e-2}}
trainer: {max_epochs: 12, accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 5}
"""


def test_a_folder_of_files_is_learned_and_predicted_without_a_line_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(CONFIG.strip().splitlines()) < 25
    Path("config.yaml").write_text(CONFIG)
    for part in range(3):
        write_table(tmp_path / "houses" / f"{part}.csv", houses(300, seed=part, missing=0.3))
    run(monkeypatch, "fit", "--config", "config.yaml")
    checkpoint = only(tmp_path, "last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["mtl_lightning"]
    check_plain(saved["schema"], "schema")

    new = houses(57, seed=9)  # no targets, other columns, another order, other categories
    prices = np.array(new["price"])
    new = {name: new[name] for name in ("rooms", "city", "area", "id")} | {"note": ["x"] * 57}
    new["city"][3] = "Atlantis"
    write_table(tmp_path / "new.csv", new)
    for part in range(3):
        (tmp_path / "houses" / f"{part}.csv").unlink()  # nothing is fitted again
    run(
        monkeypatch, "predict", "--config", "config.yaml", "--ckpt_path", str(checkpoint),
        "--data.init_args.predict=new.csv", "--data.init_args.batch_size=10", "--predictions.keep=[id, note]",
    )  # fmt: skip
    predicted = pq.read_table(only(tmp_path, "predictions.parquet"))
    assert predicted.num_rows == 57
    known = np.arange(57) != 3
    assert np.corrcoef(predicted["price"].to_numpy()[known], prices[known])[0, 1] > 0.9
    assert {*predicted["kind"].to_pylist()} <= {*saved["schema"]["targets"]["kind"]["values"]}
    assert predicted.schema.names[:3] == ["id", "note", "price"]
    assert predicted["id"].to_pylist() == [str(value) for value in new["id"]]
    told = json.loads(predicted.schema.metadata[b"mtl_lightning"])["unlike_training"]
    assert told["rows"] == 57
    assert {(one["column"], one["kind"], one["cells"]) for one in told["columns"]} >= {("city", "unseen", 1)}
    rows = [{name: new[name][place] for name in new} for place in range(57)]
    answers = Predictor.from_checkpoint(checkpoint, on_unknown="ignore")(rows)
    np.testing.assert_allclose(answers["price"]["value"], predicted["price"].to_numpy(), rtol=1e-5)
    assert answers["kind"]["label"].tolist() == predicted["kind"].to_pylist()
    assert ("city", "unseen", 1) in {(one.column, one.kind, one.cells) for one in answers.report.columns}

    lacking = dict(new)
    del lacking["area"]
    write_table(tmp_path / "new.csv", lacking)
    with pytest.raises(SystemExit, match=r"new.csv: expected a column 'area', found \['rooms', 'city', 'id', 'note'\]"):
        run(
            monkeypatch, "predict", "--config", "config.yaml", "--ckpt_path", str(checkpoint),
            "--data.init_args.predict=new.csv",
        )  # fmt: skip


def test_parquet_gives_the_same_as_csv(tmp_path: Path) -> None:
    table = houses(200, missing=0.2)
    csv = TableData(path=str(write_table(tmp_path / "t.csv", table)), targets=TARGETS)
    typed = {name: [None if value == "" else value for value in values] for name, values in table.items()}
    pq.write_table(pa.table(typed), tmp_path / "t.parquet")
    parquet = TableData(path=str(tmp_path / "t.parquet"), targets=TARGETS)
    assert csv.schema == parquet.schema
    for split in ("train", "val", "test"):
        a, b = whole(csv, split), whole(parquet, split)
        for key in ("inputs", "targets"):
            for name, tensor in a[key].items():
                torch.testing.assert_close(tensor, b[key][name], rtol=0, atol=0, equal_nan=True)


def test_codes_are_held_small_and_given_as_int64(tmp_path: Path) -> None:
    data = TableData(path=str(write_table(tmp_path / "t.csv", houses(100))), targets=TARGETS)
    rows: Any = data.rows("train")
    assert rows._columns["inputs"]["categorical"].dtype == torch.uint8
    assert rows[3]["inputs"]["categorical"].dtype == torch.int64


# ------------------------------------------------------------------------------------------------- the shipped configs
def test_the_made_aliexpress_has_the_real_layout(tmp_path: Path) -> None:
    made, real = write_aliexpress(tmp_path), shared("fixtures/aliexpress")
    for name in ("train.csv", "test.csv"):
        heads = [(folder / name).read_text().splitlines()[0] for folder in (made, real)]
        assert heads[0] == heads[1]
    options = yaml.safe_load((CONFIGS / "aliexpress.yaml").read_text())["data"]["init_args"]
    split = TableSplit(**options.pop("split"))
    data = TableData(**{**options, "path": str(real / "train.csv"), "test": str(real / "test.csv")}, split=split)
    assert isinstance(data.input_spec, TableSpec)
    assert (len(data.input_spec.categorical), len(data.input_spec.numeric)) == (16, 63)
    assert not data.schema["guessed"]
    assert {name: type(task) for name, task in data.tasks.items()} == dict.fromkeys(
        ("click", "conversion"), BinaryClassification
    )
    assert [len(data.rows("train")) + len(data.rows("val")), len(data.rows("test"))] == [200, 60]


def test_the_docs_way_of_merging_movielens_gives_what_the_config_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (CONFIGS.parent / "docs" / "tables.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    Path("ml-1m").mkdir()
    Path("data/movielens").mkdir(parents=True)
    for name, lines in {
        "users": "1::F::1::10::48067\n2::M::56::16::70072\n",
        "movies": "7::Misérables, Les (1995)::Drama|Musical\n",
        "ratings": "1::7::5::978300760\n2::7::3::978302109\n",
    }.items():
        Path(f"ml-1m/{name}.dat").write_text(lines, encoding="iso-8859-1")
    exec(compile(code, "docs/tables.md", "exec"), {})
    options = yaml.safe_load((CONFIGS / "movielens.yaml").read_text())["data"]["init_args"]
    targets = {name: TargetColumn(**declared) for name, declared in options.pop("targets").items()}
    del options["path"]
    data = TableData(**options, targets=targets, train="data/movielens/ml-1m.csv")
    assert whole(data, "train")["targets"]["rating"].tolist() == [5, 3]
    assert whole(data, "train")["targets"]["liked"].tolist() == [1, 0]
    assert data.schema["categorical"]["zip"] == ["48067", "70072"]
    assert data.schema["ignored"] == {"title": "declared", "timestamp": "declared"}


def test_nothing_to_predict_is_an_error(tmp_path: Path) -> None:
    Path("new.csv").write_text("area,rooms,city,street\n")
    path = str(write_table(tmp_path / "t.csv", houses(50)))
    data = TableData(path=path, targets=TARGETS, ignore=["id"], predict="new.csv")
    with pytest.raises(DataError, match=r"new.csv: expected rows to predict, found none"):
        data.predict_dataloader()


def test_a_target_far_from_zero_keeps_its_digits(tmp_path: Path) -> None:
    """Seconds since 1970 within minutes, which float32 would round to multiples of 128."""
    seconds = [1.7e9 + 0.25 * i for i in range(400)]
    path = str(write_table(tmp_path / "t.csv", {"x": [i / 7 for i in range(400)], "when": seconds}))
    data = TableData(path=path, targets=["when"], tasks={"when": partial(Regression, standardize=True)})
    batch = whole(data, "train")
    assert set(batch["targets"]["when"].tolist()) < set(seconds)
    task = data.tasks["when"]
    scaled = (batch["targets"]["when"] - 1.7e9) / 0.25
    output = ((scaled - scaled.mean()) / scaled.std(correction=0)).float().unsqueeze(1)
    assert task.loss(output, batch["targets"]["when"]) < 1e-9
    predicted: Any = task.predict(output)
    torch.testing.assert_close(predicted, batch["targets"]["when"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stream", [False, True])
def test_names_with_blanks_and_points_are_read_alike(tmp_path: Path, stream: bool) -> None:
    columns = {" a.b ": [i / 7 for i in range(100)], "a": ["x", "y"] * 50, " price": [i / 3 for i in range(100)]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    data = TableData(train=str(tmp_path / "t.parquet"), targets=["price"], stream=stream)
    assert isinstance(data.input_spec, TableSpec)
    assert (data.input_spec.numeric, data.input_spec.categorical) == (("a.b",), {"a": 3})
    assert len(next(iter(data.train_dataloader()))["targets"]["price"]) == 100
    with pytest.raises(ConfigurationError, match=r"'a.b': expected a name .*`targets: \{a_b: \{column: 'a.b'\}\}`"):
        TableData(train=str(tmp_path / "t.parquet"), targets=["a.b"], stream=stream)
    named = TableData(train=str(tmp_path / "t.parquet"), targets={"a_b": TargetColumn(column="a.b")}, stream=stream)
    assert named.schema["targets"]["a_b"]["kind"] == "number"


def test_what_is_said_of_a_wide_table_is_short(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = {f"column number {i}": list(random.normal(size=60).round(3)) for i in range(1000)}
    table |= {f"code {i}": list(random.integers(0, 4, 60)) for i in range(50)} | {"price": table["column number 0"]}
    data = TableData(train=str(write_table(tmp_path / "t.csv", table)), targets=["price"])
    assert len(described(data.schema)) < 3000
    assert "and 988 more" in described(data.schema)


@pytest.mark.parametrize("stream", [False, True])
def test_infinity_in_other_splits_is_named_by_its_row(tmp_path: Path, stream: bool) -> None:
    for name, last in (("train", 1.0), ("val", float("inf"))):
        pq.write_table(
            pa.table({"x": [*(i / 7 for i in range(99)), last], "y": [0.5, 1.5] * 50}), tmp_path / f"{name}.parquet"
        )
    paths: dict[str, Any] = {name: str(tmp_path / f"{name}.parquet") for name in ("train", "val")}
    data = TableData(**paths, targets=["y"], stream=stream)
    with pytest.raises(DataError, match=r"val.parquet, row 100: column 'x': expected a number, found inf"):
        list(data.val_dataloader())
    with pytest.raises(DataError, match=r"val.parquet, row 100: column 'x': expected a number, found 'inf'; of 100"):
        _ = TableData(train=paths["val"], targets=["y"], stream=stream).schema


@pytest.mark.parametrize("column", ["price.eur", "price/m2", "shared", "type", "items"])
@pytest.mark.parametrize("way", ["targets", "tasks"])
def test_columns_whose_names_no_task_can_have(column: str, way: str, tmp_path: Path) -> None:
    """Are refused with the line that helps, and work with it."""
    table = houses(60)
    table[column] = table.pop("price")
    path = str(write_table(tmp_path / "t.csv", table))
    chosen: dict[str, Any] = {"targets": [column]} if way == "targets" else {"tasks": {column: Regression}}
    with pytest.raises(ConfigurationError, match=rf"Target '{column}': .*column: '{column}'") as caught:
        TableData(path=path, **chosen)
    (line,) = re.findall(r"`(targets: .*)`", str(caught.value))
    ((name, declared),) = yaml.safe_load(line)["targets"].items()
    assert list(TableData(path=path, targets={name: TargetColumn(**declared)}).tasks) == [name]
