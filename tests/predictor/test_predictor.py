"""A checkpoint as a function of raw rows: it gives what the trainer predicts, and says what it was not trained for."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from mtl_lightning import MultiTaskModule, Network, Predictor
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.data import TableData
from mtl_lightning.errors import CheckpointError, ConfigurationError, DataError, MtlLightningWarning
from mtl_lightning.predictor import Predictions
from mtl_lightning.tasks import MultilabelClassification, Regression
from mtl_lightning.types import TargetSpec, TensorSpec
from tests.helpers import INPUTS, make_module

ROWS = 300
X = np.random.default_rng(0).normal(size=(7, INPUTS)).astype(np.float32)


def table() -> Any:
    """Houses with gaps, in two towns."""
    random = np.random.default_rng(0)
    area = random.uniform(50, 150, ROWS)
    town = random.choice(["Ulm", "Bonn"], ROWS)
    return pa.table(
        {
            "area": [None if place % 20 == 3 else round(value, 2) for place, value in enumerate(area)],
            "town": [None if place % 20 == 7 else str(value) for place, value in enumerate(town)],
            "rooms": random.integers(1, 6, ROWS),
            "price": area * np.where(town == "Ulm", 3000, 4000),
            "sold": np.where(area > 100, "yes", "no"),
            "kind": random.choice(["flat", "house", "hut"], ROWS),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A run on a file of text: the folder with the file and the checkpoint, and what the trainer predicts."""
    folder = tmp_path_factory.mktemp("houses")
    pc.write_csv(table(), folder / "houses.csv", pc.WriteOptions(delimiter=";"))
    torch.manual_seed(0)
    data = TableData(
        train=str(folder / "houses.csv"),
        test=str(folder / "houses.csv"),
        targets=["price", "sold", "kind"],
        categorical=["rooms"],
        delimiter=";",
        batch_size=64,
    )
    encoder = partial(SharedBottom, encoder=TabularEncoder)
    module = MultiTaskModule(data.tasks, encoder, data.input_spec, reads={"sold": ["price"]})
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=folder, limit_val_batches=0, **quiet)
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "best.ckpt")
    batches: Any = trainer.predict(module, data)
    return folder, module, batches


def columns_of(batches: Sequence[Any], task: str, key: str | None = None) -> Any:
    return np.concatenate([(batch[task] if key is None else batch[task][key]).numpy() for batch in batches])


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def the_same(left: Predictions, right: Predictions) -> None:
    assert left.tasks.keys() == right.tasks.keys()
    for task, answer in left.tasks.items():
        for key, column in answer.items():
            (np.testing.assert_array_equal if column.dtype == object else close)(column, right[task][key])


def test_it_gives_what_the_trainer_predicts_with_the_names_of_classes(run: tuple[Path, Any, Any]) -> None:
    folder, module, batches = run
    predictor = Predictor.from_checkpoint(folder / "best.ckpt")
    answers = predictor(str(folder / "houses.csv"))
    assert len(answers) == ROWS
    assert not answers.report
    close(answers["price"]["value"], columns_of(batches, "price"))
    close(answers["sold"]["probability"], columns_of(batches, "sold", "probability"))
    close(answers["kind"]["probability"], columns_of(batches, "kind", "probability"))
    kinds = np.array(["flat", "house", "hut"])[columns_of(batches, "kind", "label")]
    assert answers["kind"]["label"].tolist() == kinds.tolist()
    assert answers["sold"]["label"].tolist() == np.where(columns_of(batches, "sold", "label"), "yes", "no").tolist()
    the_same(Predictor(module)(str(folder / "houses.csv")), answers)  # of the module itself


def test_all_forms_of_rows_give_the_same(run: tuple[Path, Any, Any], tmp_path: Path) -> None:
    predictor, whole = Predictor.from_checkpoint(run[0] / "best.ckpt"), table()
    pq.write_table(whole, tmp_path / "houses.parquet")
    wanted = predictor(whole)
    features = whole.select(["rooms", "town", "area"])
    forms: list[Any] = [
        features.to_pylist(),
        features.to_pydict(),
        features.to_batches()[0],
        tmp_path / "houses.parquet",
        [str(run[0] / "houses.csv")],
    ]
    for form in forms:
        the_same(predictor(form), wanted)
    small = Predictor.from_checkpoint(run[0] / "best.ckpt", batch_size=7)
    the_same(small(features.to_pylist()), wanted)


def test_answers_are_rows_for_json_and_a_table(run: tuple[Path, Any, Any]) -> None:
    predictor = Predictor.from_checkpoint(run[0] / "best.ckpt")
    answers = predictor({"area": 70, "town": "Ulm", "rooms": 3, "user": "u1"})
    (row,) = answers.to_list()
    assert list(row) == ["price", "sold", "kind"]
    assert isinstance(row["price"]["value"], float)
    assert row["sold"]["label"] in ("no", "yes")
    assert list(row["kind"]["probabilities"]) == ["flat", "house", "hut"]
    assert sum(row["sold"]["probabilities"].values()) == pytest.approx(1)
    found = answers.to_arrow()
    assert {field.name: str(field.type).replace("item", "element") for field in found.schema} == {
        "price": "float",
        "sold": "string",
        "sold.probability": "float",
        "kind": "string",
        "kind.probability": "fixed_size_list<element: float>[3]",
    }
    nothing: list[Any] = [
        [],
        pa.table({"other": pa.array([], pa.int64())}),
        {"area": [], "town": [], "rooms": []},
        table().slice(0, 0),
    ]
    for none in nothing:
        empty = predictor(none)
        assert (len(empty), empty.to_list(), empty.to_arrow().num_rows) == (0, [], 0)
        assert empty.to_arrow().schema == found.schema


# --------------------------------------------------------------------------------------------- what training never saw
def test_what_is_unlike_training_is_reported_and_warned_of(run: tuple[Path, Any, Any]) -> None:
    predictor = Predictor.from_checkpoint(run[0] / "best.ckpt")
    rows = table().to_pylist()
    rows[5]["town"], rows[6]["area"], rows[8]["area"] = "Rome", 1e6, "large"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = predictor(rows)  # one of 300 is no reason to warn
    assert {(one.column, one.kind, one.cells) for one in answers.report.columns} == {
        ("town", "unseen", 1),
        ("area", "outside", 1),
        ("area", "unreadable", 1),
    }
    assert "such as 'large' in row 9" in str(answers.report)
    assert answers.report.to_dict()["rows"] == ROWS
    with pytest.warns(MtlLightningWarning, match=r"more than 5 % unlike them in the columns \['rooms', 'town'\]"):
        found = predictor([{"area": 70.0, "town": "Rome"}]).report
    assert {(one.column, one.kind) for one in found.columns} == {("town", "unseen"), ("rooms", "absent")}


def test_rows_unlike_training_may_be_refused_or_passed_over(run: tuple[Path, Any, Any]) -> None:
    strict = Predictor.from_checkpoint(run[0] / "best.ckpt", on_unknown="raise")
    rows = [{"area": 70.0, "town": "Ulm", "rooms": 2}, {"area": "large", "town": "Ulm", "rooms": 9}]
    message = r"'area': 50 % cannot be read, such as 'large' in row 2.*'rooms': 50 % were not met"
    with pytest.raises(DataError, match=message):
        strict(rows)
    strict(table())  # gaps as in training are none
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Predictor.from_checkpoint(run[0] / "best.ckpt", on_unknown="ignore")(rows).report


# -------------------------------------------------------------------------------------------------- what is computed
def test_some_tasks_cost_only_what_they_need(run: tuple[Path, Any, Any]) -> None:
    predictor, ran = Predictor(run[1], tasks=["kind", "sold"]), []
    network: Any = predictor._backend
    for name, head in network._network.heads.items():
        head.register_forward_hook(lambda *_, name=name: ran.append(name))
    row = {"area": 70.0, "town": "Ulm", "rooms": 2}
    assert list(predictor(row).tasks) == ["sold", "kind"]
    assert sorted(ran) == ["kind", "price", "sold"]  # sold reads price
    ran.clear()
    assert list(predictor(row, tasks=["kind"]).tasks) == ["kind"]
    assert ran == ["kind"]
    with pytest.raises(ConfigurationError, match="Did you mean 'kind'"):
        predictor(row, tasks=["knd"])


def test_threads_get_each_their_own_answers(run: tuple[Path, Any, Any]) -> None:
    predictor, rows = Predictor.from_checkpoint(run[0] / "best.ckpt"), table().to_pylist()
    pieces = [rows[start : start + 5] for start in range(0, ROWS, 5)] * 2
    wanted = [predictor(piece).to_list() for piece in pieces]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda piece: predictor(piece).to_list(), pieces)) == wanted


def test_a_module_that_is_trained_on_does_not_change_its_predictor() -> None:
    module = make_module()
    predictor = Predictor(module)
    before = predictor(X)["number"]["value"]
    with torch.no_grad():
        for weight in module.train().parameters():
            weight.add_(1)
    assert module.training
    np.testing.assert_array_equal(predictor(X)["number"]["value"], before)


# ------------------------------------------------------------------------------------------------- data but for tables
def test_inputs_are_arrays_and_tensors() -> None:
    module = make_module()
    predictor, wanted = Predictor(module, batch_size=3), module.predict(torch.from_numpy(X))
    for form in (X, X.astype(np.float64), torch.from_numpy(X).requires_grad_(), X.tolist(), {"inputs": X}):
        close(predictor(form)["number"]["value"], wanted["number"].numpy())
    answers = predictor(X)
    close(answers["kind"]["probability"], wanted["kind"]["probability"].numpy())
    assert answers["kind"]["label"].tolist() == [str(label) for label in wanted["kind"]["label"].tolist()]
    assert list(answers.to_list()[0]["vector"]["value"]) == ["0", "1", "2"]
    assert len(predictor(X[:0])) == 0
    for wrong, message in (
        (X[:, 1:], r"expected the shape \(N, 4\), found \(7, 3\)"),
        (X.astype(np.complex64), "expected numbers of type float32"),
        ({"other": X}, "Expected an array of rows"),
        ("text", "Expected an array"),
    ):
        with pytest.raises(DataError, match=message):
            predictor(wrong)


class Sum(nn.Module):
    """Two inputs, one feature."""

    out_features = 1

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["a"].sum(1, keepdim=True) + inputs["b"]


def test_inputs_by_name_and_several_labels() -> None:
    spec = {"a": TensorSpec((2,)), "b": TensorSpec((1,))}
    task = MultilabelClassification(TargetSpec(classes=2, names=("x", "y")))
    predictor = Predictor(Network({"labels": task}, Sum(), spec))
    inputs: dict[str, Any] = {"a": np.ones((3, 2)), "b": np.zeros((3, 1), dtype=np.float32)}
    answers = predictor(inputs)
    assert answers["labels"]["probability"].shape == (3, 2)
    row = answers.to_list()[0]["labels"]
    assert row["labels"] == [name for name, share in row["probabilities"].items() if share > 0.5]
    with pytest.raises(DataError, match="same number of rows"):
        predictor({**inputs, "b": inputs["b"][:2]})
    with pytest.raises(DataError, match=r"Expected a dict of arrays \['a', 'b'\], found \['a'\]"):
        predictor({"a": inputs["a"]})


class Bounds(Regression):
    """A user's own task, which predicts more than one thing."""

    def predict(self, output: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # wider in the base
        return {"least": output[:, 0] - 1, "most": output[:, 0] + 1}


def test_what_a_users_task_predicts_is_given_as_it_is() -> None:
    answers = Predictor(make_module(tasks={"number": Bounds(TargetSpec())}))(X)
    assert list(answers["number"]) == ["least", "most"]
    assert list(answers.to_list()[0]["number"]) == ["least", "most"]
    assert answers.to_arrow().schema.names == ["number.least", "number.most"]


# ------------------------------------------------------------------------------------------------------- calibration
def test_intervals_and_calibrated_probabilities_are_in_the_answers(run: tuple[Path, Any, Any]) -> None:
    predictor = Predictor(run[1])
    rows = [{"area": 70.0, "town": town, "rooms": 2} for town in ("Ulm", "Bonn", None)]
    plain = predictor(rows)
    module = MultiTaskModule.load_from_checkpoint(run[0] / "best.ckpt")
    module.calibration = {
        "price": {
            "method": "conformal",
            "coverage": 0.9,
            "half_width": [1000.0],
            "by": "town",
            "groups": {"Ulm": [10.0], "Bonn": [20.0]},
        },
        "kind": {"method": "temperature", "temperature": 100.0},
    }
    found = Predictor(module)(rows)
    close(found["price"]["value"], plain["price"]["value"])
    np.testing.assert_allclose(found["price"]["high"] - found["price"]["value"], [10, 20, 1000], rtol=0.01)
    np.testing.assert_allclose(found["price"]["value"] - found["price"]["low"], [10, 20, 1000], rtol=0.01)
    assert np.abs(found["kind"]["probability"] - 1 / 3).max() < 0.01
    assert list(found.to_list()[0]["price"]) == ["value", "low", "high"]
    assert "price.low" in found.to_arrow().schema.names


# ------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_unknown": "shout"}, "`on_unknown`: expected one of"),
        ({"batch_size": 0}, "`batch_size`: expected a finite number of at least 1"),
        ({"unseen_share": 2}, "`unseen_share`: expected a number of at least 0 and at most 1"),
        ({"tasks": ["nmber"]}, "Did you mean 'number'"),
        ({"tasks": "number"}, r"`tasks`: expected a list of names, found 'number'\. Write \['number'\]"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Predictor(make_module(), **options)


def test_what_cannot_predict_is_refused(run: tuple[Path, Any, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Expected a MultiTaskModule, a Network or a backend"):
        Predictor(nn.Linear(1, 1))
    (tmp_path / "none.ckpt").write_text("none")
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        Predictor.from_checkpoint(tmp_path / "none.ckpt")
    predictor = Predictor.from_checkpoint(run[0] / "best.ckpt")
    with pytest.raises(ConfigurationError, match="Expected a list of dicts"):
        predictor(3)
    with pytest.raises(DataError, match="Row 2: expected a dict"):
        predictor([{"area": 1}, 3])
    with pytest.raises(DataError, match="same number of rows"):
        predictor({"area": [1, 2], "town": ["Ulm"]})
    frame = pd.DataFrame([[1.0, 2.0, "Ulm"]], columns=["area", "area", "town"])
    for table in (frame, pa.table([[1.0], [2.0], ["Ulm"]], names=["area", "area", "town"])):
        with pytest.raises(DataError, match="columns of different names, found 'area' more than once"):
            predictor(table)


# -------------------------------------------------------------------------------------------------- without torch
def test_a_predictor_of_another_backend_imports_neither_torch_nor_lightning() -> None:
    code = """
import sys
import numpy as np
from mtl_lightning import Predictor
from mtl_lightning.predictor.description import make_description

schema = {"numeric": {"n": {"mean": 0.0, "std": 1.0, "log1p": False}}, "categorical": {"c": ["a"]},
          "missing_values": ["NA"], "targets": {}, "rows": 2}
class Half:
    description = make_description(tasks={"y": {"form": "values", "names": [], "units": ""},
                                          "k": {"form": "binary", "names": ["no", "yes"]}},
                                   schema=schema, input_spec=None)
    def run(self, inputs, tasks):
        return {"y": inputs["numeric"][:, 0] / 2, "k": inputs["categorical"][:, 0] * 0.9}
print(Predictor(Half())([{"n": 3, "c": "a"}, {"n": "2", "c": None}]).to_list())
assert not {"torch", "lightning", "pandas", "polars"} & {*sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[{'y': {'value': 1.5}, 'k': {'label': 'yes', 'probabilities': {'no': 0.")
