"""Levels, quantiles and times to an event: all ways to an answer give the same, and two processes learn as one."""

from __future__ import annotations

import json
import sys
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from mtl_lightning import MultiTaskModule, Predictor
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.serve.body import Rows
from mtl_lightning.serve.worker import answered
from mtl_lightning.tasks import Ordinal, Quantile, Survival, Task
from mtl_lightning.types import Batch
from tests.helpers import INPUTS, assert_same, fit, loader_of, make_batches, make_module, make_trainer
from tests.programs import run

X = np.random.default_rng(0).normal(size=(7, INPUTS)).astype(np.float32)


def tasks() -> dict[str, Task]:
    price = Quantile(units="EUR", standardize=True)
    price.fit_target(torch.tensor([100.0, 300.0]))
    churn = Survival(intervals=3, units="days")
    churn.fit_target(torch.tensor([[10.0, 1.0], [20.0, 1.0], [30.0, 1.0], [40.0, 0.0]]))
    return {"stars": Ordinal(class_names=["bad", "fair", "good", "best"]), "price": price, "churn": churn}


def module(**options: Any) -> MultiTaskModule:
    return make_module(tasks=tasks(), **options)


def batches(part: int = 0, parts: int = 1) -> list[Batch]:
    """Six batches of 8 rows with gaps, or every so many of their rows."""
    made = make_batches(6)
    random = torch.Generator().manual_seed(0)

    def target_of(inputs: Tensor) -> dict[str, Tensor]:
        stars = (inputs[:, 0] * 2).round().long().clamp(-1, 2) + 1
        price = 200 + 50 * inputs[:, 1]
        churn = torch.stack([20 * inputs[:, 2].exp(), (inputs[:, 3] > 0).double()], dim=1)
        gone = torch.rand(3, len(inputs), generator=random) < 0.3
        stars[gone[0]], price[gone[1]], churn[gone[2], 0] = -100, torch.nan, torch.nan
        return {"stars": stars, "price": price, "churn": churn}

    whole = [(batch["inputs"], target_of(batch["inputs"])) for batch in made]
    return [{"inputs": x[part::parts], "targets": {n: t[part::parts] for n, t in y.items()}} for x, y in whole]


def trained(data: list[Batch], **trainer: Any) -> dict[str, Tensor]:
    made = module(balancer=UncertaintyWeighting, reads={"price": ["stars", "churn"]})
    fit(made, data, **trainer)
    return {name: parameter.detach().clone() for name, parameter in made.named_parameters()}


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


def test_a_server_answers_alike() -> None:
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
    ]


def test_two_processes_and_micro_batches_learn_as_one(tmp_path: Path) -> None:
    whole = trained(batches())
    halves = [half for pair in zip(batches(0, 2), batches(1, 2), strict=True) for half in pair]
    assert_same(trained(halves, accumulate_grad_batches=2), whole, atol=1e-10)
    run("tests.predictor.test_kinds_of_tasks", str(tmp_path), world=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    assert_same(first, whole, atol=1e-10)
    with pytest.raises(AssertionError):
        assert_same(trained(batches(0, 2)), whole, atol=1e-4)


if __name__ == "__main__":
    rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    strategy = DDPStrategy(process_group_backend="gloo")
    ended = trained(batches(rank, world), strategy=strategy, devices=world, use_distributed_sampler=False)
    torch.save(ended, f"{sys.argv[1]}/rank{rank}.pt")
