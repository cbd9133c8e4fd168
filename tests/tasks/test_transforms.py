"""Regression of a transformed target: scikit-learn's powers, predictions and intervals in original units."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.preprocessing import PowerTransformer
from torch import Tensor

from mtl_lightning import Predictor
from mtl_lightning.data import TableData
from mtl_lightning.tasks import Regression
from mtl_lightning.tasks.transforms import fitted_powers, forward, inverse
from mtl_lightning.types import ConfigurationError, TargetError
from tests.helpers import INPUTS, make_module

OPTIONS: list[dict[str, Any]] = [
    {"transform": transform, "standardize": standardize}
    for transform in ("log1p", "yeo_johnson")
    for standardize in (False, True)
]


def skewed(rows: int, columns: int = 2) -> Tensor:
    """Numbers (N, D) with long tails: to the right of all, to both sides of the second."""
    found = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    if columns > 1:
        found[:, 1] = 3 - found[:, 1]
    return found


def test_powers_and_values_are_those_of_scikit_learn() -> None:
    values = skewed(500)
    other = PowerTransformer(standardize=False).fit(values.numpy())
    powers = fitted_powers(values, torch.ones_like(values, dtype=torch.bool))
    np.testing.assert_allclose(powers.numpy(), other.lambdas_, rtol=1e-4)
    found = forward("yeo_johnson", values, torch.from_numpy(other.lambdas_))
    np.testing.assert_allclose(found.numpy(), other.transform(values.numpy()), rtol=1e-9)


@pytest.mark.parametrize("power", [-1.5, 0.0, 0.3, 1.0, 2.0, 3.0])
def test_the_inverse_gives_values_back(power: float) -> None:
    values, powers = torch.linspace(-6, 6, 25, dtype=torch.float64), torch.tensor([power], dtype=torch.float64)
    torch.testing.assert_close(inverse("yeo_johnson", forward("yeo_johnson", values, powers), powers), values)
    assert inverse("yeo_johnson", torch.tensor([-1e9, 1e9]), powers).isfinite().all()


@pytest.mark.parametrize("options", OPTIONS)
def test_losses_are_of_transformed_and_predictions_of_original_units(options: dict[str, Any]) -> None:
    target = skewed(300, 1)[:, 0]
    task, mask = Regression(**options), torch.ones(300, 1, dtype=torch.bool)
    task.fit_target(target)
    power = fitted_powers(target[:, None], mask)
    wanted = forward(options["transform"], target[:, None], power)[:, 0]
    if options["standardize"]:
        wanted = (wanted - wanted.mean()) / wanted.std(correction=0)
    torch.testing.assert_close(task.loss(torch.zeros(300, 1).double(), target), wanted.square().sum())
    torch.testing.assert_close(task.predict(wanted[:, None]), target)
    assert task.target_scale is None
    metrics = task.metrics("val")
    task.update(metrics, wanted[:, None] * 0, target)
    assert metrics.compute()["mae"].item() == pytest.approx(
        float((target - task.predict(wanted[:1, None] * 0)).abs().mean()), rel=1e-5
    )


def test_what_is_learned_is_saved_and_missing_labels_do_not_matter() -> None:
    target = skewed(200)
    gappy = torch.cat([target, torch.full((50, 2), torch.nan)])
    task, gaps = (Regression(num_outputs=2, transform="yeo_johnson") for _ in range(2))
    with pytest.raises(ConfigurationError, match="fit_target"):
        task.predict(torch.zeros(1, 2))
    task.fit_target(target)
    gaps.fit_target(gappy)
    assert torch.equal(task.target_power, gaps.target_power)
    again = Regression(num_outputs=2, transform="yeo_johnson")
    again.load_state_dict(task.state_dict())
    assert torch.equal(again.predict(torch.ones(1, 2)), task.predict(torch.ones(1, 2)))


def test_intervals_are_fitted_in_original_units() -> None:
    target = skewed(100, 1)[:, 0]
    task = Regression(transform="log1p")
    predicted, truth, known = task.calibration_rows(torch.log1p(target)[:, None] + 0.5, target)
    torch.testing.assert_close(truth[:, 0], target)
    torch.testing.assert_close(predicted[:, 0], (1 + target) * np.exp(0.5) - 1)
    assert known.all()


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS[1:4:2])
def test_an_export_answers_alike(options: dict[str, Any], tmp_path: Any) -> None:
    task = Regression(**options)
    task.fit_target(skewed(200, 1)[:, 0])
    made = make_module(tasks={"price": task}).float()
    made.export(tmp_path / "model")
    x = np.random.default_rng(0).normal(size=(6, INPUTS)).astype(np.float32)
    found = Predictor.from_export(tmp_path / "model")(x)["price"]["value"]
    np.testing.assert_allclose(found, Predictor(made)(x)["price"]["value"], rtol=1e-4)


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigurationError, match="either `transform` or `popart`, found both"):
        Regression(transform="log1p", popart=0.1)
    wrong: Any = "log"
    with pytest.raises(ConfigurationError, match=r"in \['log1p', 'yeo_johnson'\], found 'log'"):
        Regression(transform=wrong)
    with pytest.raises(TargetError, match=r"finite numbers from 0.*found -1.0 in row 1"):
        Regression(transform="log1p").check(torch.tensor([0.0, -1.0]))


def test_a_streamed_table_fits_the_same_power(tmp_path: Path) -> None:
    area = [place * 37 % 101 for place in range(120)]
    pq.write_table(pa.table({"area": area, "price": skewed(120, 1)[:, 0].numpy()}), tmp_path / "rows.parquet")
    power = partial(Regression, transform="yeo_johnson", standardize=True)
    made: list[Any] = [
        TableData(train=str(tmp_path / "rows.parquet"), targets=["price"], tasks={"price": power}, stream=stream)
        for stream in (False, True)
    ]
    memory, streamed = (data.tasks["price"] for data in made)
    for name in ("target_power", "target_mean", "target_std"):
        torch.testing.assert_close(getattr(streamed, name), getattr(memory, name), rtol=1e-6, atol=1e-6)
    assert abs(float(memory.target_power) - 1) > 0.5
