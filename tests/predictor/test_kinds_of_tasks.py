"""Levels, quantiles and times to an event: all ways to an answer give the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mtl_lightning import MultiTaskModule, Predictor
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.serve.body import Rows
from mtl_lightning.serve.worker import answered
from mtl_lightning.tasks import Ordinal, Quantile, Survival, Task, VectorRegression
from tests.helpers import INPUTS, loader_of, make_module, make_trainer

X = np.random.default_rng(0).normal(size=(7, INPUTS)).astype(np.float32)


def tasks() -> dict[str, Task]:
    price = Quantile(units="EUR", standardize=True)
    price.fit_target(torch.tensor([100.0, 300.0]))
    churn = Survival(intervals=3, units="days")
    churn.fit_target(torch.tensor([[10.0, 1.0], [20.0, 1.0], [30.0, 1.0], [40.0, 0.0]]))
    size = VectorRegression(output_names=["width", "height"], units="mm", standardize=True)
    size.fit_target(torch.tensor([[100.0, 3.0], [300.0, 4.0]]))
    stars = Ordinal(class_names=["bad", "fair", "good", "best"])
    return {"stars": stars, "price": price, "churn": churn, "size": size}


def module(**options: Any) -> MultiTaskModule:
    return make_module(tasks=tasks(), **options)


def test_answers_have_all_that_is_predicted() -> None:
    made = module()
    predicted: Any = made.predict(torch.from_numpy(X))
    answers = Predictor(made)(X)
    assert list(answers["stars"]) == ["label", "probability"]
    assert list(answers["price"]) == ["value", "quantiles"]
    assert list(answers["churn"]) == ["value", "expected", "survival"]
    for task, key in (("price", "quantiles"), ("churn", "survival"), ("churn", "expected"), ("stars", "probability")):
        np.testing.assert_allclose(answers[task][key], predicted[task][key].numpy(), rtol=1e-5)
    row = answers.to_list()[0]
    assert row["stars"]["label"] == ["bad", "fair", "good", "best"][int(predicted["stars"]["label"][0])]
    assert list(row["price"]["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert list(row["churn"]["survival"]) == ["10", "20", "30"]


def test_an_export_answers_alike(tmp_path: Path) -> None:
    made = module().float()
    made.export(tmp_path / "model", format="onnx")
    wanted = Predictor(made)(X)
    found = Predictor.from_export(tmp_path / "model")(X)
    for task, answer in wanted.tasks.items():
        assert list(found[task]) == list(answer)
        for key, column in answer.items():
            if column.dtype == object:
                assert found[task][key].tolist() == column.tolist()
            else:
                np.testing.assert_allclose(found[task][key], column, rtol=1e-5, atol=1e-6)


def test_a_server_answers_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "expected", None)  # of the last server that this process has set up
    predictor = Predictor(module())
    (answer,) = answered(predictor, [Rows(rows=X.tolist())])
    assert json.loads(bytes(answer.body))["answers"] == json.loads(json.dumps(predictor(X).to_list()))  # type: ignore[union-attr]  # no error


def test_the_file_has_a_column_for_each(tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[PredictionWriter(tmp_path / "p.parquet")])
    trainer.predict(module(), loader_of([{"inputs": torch.from_numpy(X).double()}]))
    assert pq.read_table(tmp_path / "p.parquet").column_names == [
        *("stars", "stars.probability", "stars.rank"),
        *("price", "price.quantiles"),
        *("churn", "churn.expected", "churn.survival"),
        "size",
    ]
