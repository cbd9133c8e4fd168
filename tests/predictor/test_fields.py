"""A task that predicts several numbers by key: the predictor, the export, the server and the file give all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from mtl_lightning import MultiTaskModule, Predictor
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.errors import CheckpointError
from mtl_lightning.predictor.description import check_description, make_description
from mtl_lightning.serve.body import Rows
from mtl_lightning.serve.worker import answered
from mtl_lightning.tasks import MulticlassClassification, Regression
from tests.helpers import INPUTS, loader_of, make_module, make_trainer

X = np.random.default_rng(0).normal(size=(7, INPUTS)).astype(np.float32)
FIELDS: dict[str, Any] = {"value": [], "std": [], "curve": ["0.1", "0.5", "0.9"]}


class Spread(Regression):
    """A number with a spread and a curve of three points around it."""

    def predict(self, output: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # wider in the base
        value = output[:, 0]
        curve = value.unsqueeze(1) + torch.tensor([-1.0, 0.0, 1.0], dtype=value.dtype)
        return {"value": value, "std": value.square() + 1, "curve": curve}

    def decoding(self) -> dict[str, Any]:
        return {"form": "fields", "fields": FIELDS, "units": self.spec.units}


def module() -> MultiTaskModule:
    return make_module(tasks={"price": Spread(units="EUR"), "kind": MulticlassClassification(num_classes=4)})


def test_the_answers_have_all_fields_by_name() -> None:
    made = module()
    predicted: Any = made.predict(torch.from_numpy(X))["price"]
    answers = Predictor(made)(X)
    assert list(answers["price"]) == ["value", "std", "curve"]
    for key, column in answers["price"].items():
        np.testing.assert_allclose(column, predicted[key].numpy(), rtol=1e-6)
    row = answers.to_list()[2]
    assert row["price"]["std"] == pytest.approx(float(predicted["std"][2]))
    assert list(row["price"]["curve"]) == ["0.1", "0.5", "0.9"]
    assert row["price"]["curve"]["0.9"] - row["price"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert answers.to_arrow().column_names[:3] == ["price", "price.std", "price.curve"]
    small = Predictor(made, batch_size=3)(X)
    np.testing.assert_allclose(small["price"]["curve"], answers["price"]["curve"], rtol=0, atol=1e-6)


def test_no_rows_have_the_same_columns() -> None:
    none = Predictor(module())(X[:0])
    assert len(none) == 0
    assert none["price"]["curve"].shape == (0, 3)
    assert none["price"]["std"].shape == (0,)
    assert none.to_list() == []
    assert none.to_arrow().schema.names == Predictor(module())(X).to_arrow().schema.names


@pytest.mark.parametrize("format", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_an_export_answers_alike(format: Any, tmp_path: Path) -> None:
    made = module().float()
    made.export(tmp_path / "model", format=format)
    exported = Predictor.from_export(tmp_path / "model")
    assert exported.description["tasks"]["price"] == {"form": "fields", "fields": FIELDS, "units": "EUR"}
    wanted = Predictor(made)(X)
    for key, column in exported(X)["price"].items():
        np.testing.assert_allclose(column, wanted["price"][key], rtol=1e-5, atol=1e-6)


def test_a_server_answers_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "expected", None)  # of the last server that this process has set up
    predictor = Predictor(module())
    (answer,) = answered(predictor, [Rows(rows=X.tolist())])
    assert json.loads(bytes(answer.body))["answers"] == json.loads(json.dumps(predictor(X).to_list()))  # type: ignore[union-attr]  # no error


def test_the_file_has_a_column_for_each(tmp_path: Path) -> None:
    made, batches = module(), [{"inputs": torch.from_numpy(X).double()}]
    trainer = make_trainer(callbacks=[PredictionWriter(tmp_path / "p.parquet")])
    trainer.predict(made, loader_of(batches))
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["price", "price.std", "price.curve", "kind", "kind.probability"]
    assert json.loads(table.schema.metadata[b"mtl_lightning"])["fields"] == {"price": FIELDS}
    np.testing.assert_allclose(table["price.std"].to_numpy(), Predictor(made)(X)["price"]["std"], rtol=1e-5)


@pytest.mark.parametrize("fields", [None, ["value"], {"value": None}, {"std": []}])
def test_fields_that_are_none_are_refused(fields: Any) -> None:
    decoding = {"form": "fields", "fields": fields}
    described = make_description(tasks={"y": decoding}, schema=None, input_spec=None)
    with pytest.raises(CheckpointError, match="of task 'y' a `form` among"):
        check_description(described, "schema.json")
