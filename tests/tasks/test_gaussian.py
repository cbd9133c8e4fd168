"""Tasks whose outputs have a noise level: losses by SciPy's densities, floors, predictions, parameters found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]  # it ships no types
from sklearn.metrics import roc_auc_score

from mtl_lightning import Predictor
from mtl_lightning.tasks import HeteroscedasticRegression, Regression, ZeroInflatedLogNormal
from mtl_lightning.types import TargetError
from tests.helpers import INPUTS, make_module
from tests.tasks.recovery import Floats, assert_likeliest, found_by, linear, with_features

NAN = float("nan")
SIZES = [pytest.param(2000, id="2000"), pytest.param(50_000, id="50000", marks=pytest.mark.slow)]
TASKS: list[Any] = [HeteroscedasticRegression, ZeroInflatedLogNormal]


def scale(output: Floats) -> Floats:
    return np.asarray(np.log1p(np.exp(output)) + 0.01)


def output_of(scale: float) -> float:
    return float(np.log(np.expm1(scale - 0.01)))


# ----------------------------------------------------------------------------------------------------------- the losses
def test_the_normal_loss_is_the_likelihood_over_its_floor() -> None:
    output, target = torch.randn(50, 2, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    spread = scale(output[:, 1].numpy())
    wanted = stats.norm.logpdf(0, 0, 0.01) - stats.norm.logpdf(target, output[:, 0], spread)
    found = HeteroscedasticRegression().elementwise_loss(output, target)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    assert found.min() > 0


def test_the_loss_of_amounts_is_the_likelihood_over_its_floor() -> None:
    output = torch.randn(50, 3, dtype=torch.float64)
    target = torch.randn(50, dtype=torch.float64).exp() * (torch.arange(50) % 3 > 0)
    chance, spread = 1 / (1 + np.exp(-output[:, 0].numpy())), scale(output[:, 2].numpy())
    amounts = np.maximum(target.numpy(), 1e-300)
    density = stats.lognorm.logpdf(amounts, spread, scale=np.exp(output[:, 1].numpy())) + np.log(amounts)
    wanted = np.where(target > 0, stats.norm.logpdf(0, 0, 0.01) - np.log(chance) - density, -np.log(1 - chance))
    np.testing.assert_allclose(ZeroInflatedLogNormal().elementwise_loss(output, target), wanted, rtol=1e-10)


@pytest.mark.parametrize("cls", TASKS)
def test_the_least_loss_is_0_however_sure_outputs_are(cls: Any) -> None:
    task = cls()
    target = torch.tensor([1.0, 1.0])
    sure = [1.0, -1e4] if cls is HeteroscedasticRegression else [1e4, 0.0, -1e4]
    assert task.loss(torch.tensor([sure, sure]), target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("cls", TASKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_extreme_outputs_have_finite_losses_gradients_and_predictions(cls: Any, dtype: torch.dtype) -> None:
    for value in (-6e4, -50.0, 50.0, 6e4):
        output = torch.full((3, cls().output_size), value, dtype=dtype, requires_grad=True)
        loss = cls().loss(output, torch.tensor([0.0, 3.0, 1e6]))
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, output)
        assert gradient.float().nan_to_num(1.0, 1.0, 1.0).abs().max() > 0
        assert not gradient.isnan().any()
        assert all(part.isfinite().all() for part in cls().predict(output).values())


def test_beta_changes_gradients_but_no_values() -> None:
    output, target = torch.randn(6, 2, requires_grad=True), torch.randn(6)
    plain, of_beta = HeteroscedasticRegression(), HeteroscedasticRegression(beta=1.0)
    torch.testing.assert_close(of_beta.loss(output, target), plain.loss(output, target))
    (gradient,) = torch.autograd.grad(of_beta.loss(output, target), output)
    torch.testing.assert_close(gradient[:, 0], (output[:, 0] - target).detach())  # that of r^2 / 2


def test_negative_amounts_are_refused() -> None:
    with pytest.raises(TargetError, match=r"finite amounts of at least 0.*found -1.0 in row 1"):
        ZeroInflatedLogNormal().check(torch.tensor([0.0, -1.0]))


# ---------------------------------------------------------------------------------------------- predictions and metrics
def test_standardised_outputs_predict_in_the_targets_units() -> None:
    target = torch.tensor([100.0, 300.0, NAN])
    task = HeteroscedasticRegression(standardize=True)
    task.fit_target(target)
    found = task.predict(torch.tensor([[1.0, output_of(0.5)]]))
    assert found["value"].item() == pytest.approx(300)
    assert found["std"].item() == pytest.approx(50)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_trivial_prediction_of_amounts_has_their_mean_if_they_are_log_normal(standardize: bool) -> None:
    random = np.random.default_rng(0)
    target = torch.from_numpy(np.exp(random.normal(3, 0.8, 100_000)) * (random.uniform(size=100_000) < 0.2))
    task = ZeroInflatedLogNormal(standardize=standardize)
    task.fit_target(target)
    output = task.trivial_output(task.trivial_prediction(target, torch.ones(len(target))))
    found = task.predict(output.reshape(1, 3))
    assert found["probability"].item() == pytest.approx(float((target > 0).double().mean()), rel=1e-6)
    assert found["value"].item() == pytest.approx(float(target.mean()), rel=0.02)


def test_metrics_by_other_libraries_with_weights() -> None:
    output, target, weight = torch.randn(80, 3), torch.randn(80).exp() * (torch.arange(80) % 3 > 0), torch.rand(80)
    task = ZeroInflatedLogNormal()
    metrics = task.metrics("val")
    task.update(metrics, output, target, weight)
    found, predicted = metrics.compute(), task.predict(output)
    assert found["auroc"].item() == pytest.approx(
        roc_auc_score(target > 0, predicted["probability"], sample_weight=weight), rel=1e-5
    )
    assert found["mae"].item() == pytest.approx(
        np.average((predicted["value"] - target).abs(), weights=weight), rel=1e-5
    )
    normal = HeteroscedasticRegression()
    metrics = normal.metrics("val")
    normal.update(metrics, output[:, :2], target, weight)
    spread = scale(output[:, 1].numpy())
    wanted = -np.average(stats.norm.logpdf(target, output[:, 0], spread), weights=weight)
    inside = (target - output[:, 0]).abs().numpy() <= stats.norm.ppf(0.95) * spread
    assert metrics.compute()["nll"].item() == pytest.approx(wanted, rel=1e-5)
    assert metrics.compute()["coverage"].item() == pytest.approx(np.average(inside, weights=weight), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cls", TASKS)
def test_an_export_answers_alike(cls: Any, tmp_path: Path) -> None:
    task = cls(units="EUR", standardize=True)
    task.fit_target(torch.tensor([0.0, 10.0, 30.0, 200.0]))
    made = make_module(tasks={"spent": task}).float()
    made.export(tmp_path / "model")
    x = np.random.default_rng(0).normal(size=(6, INPUTS)).astype(np.float32)
    wanted, found = Predictor(made)(x), Predictor.from_export(tmp_path / "model")(x)
    assert next(iter(found["spent"])) == "value"
    for key, column in found["spent"].items():
        np.testing.assert_allclose(column, wanted["spent"][key], rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------- recovery
@pytest.mark.parametrize("rows", SIZES)
def test_the_mean_and_the_noise_of_each_row_are_found(rows: int) -> None:
    x, random = with_features(rows)
    true = np.array([1.0, -0.5, 2.0, 0.4, 0.3, output_of(0.8)])
    mean, spread = linear(true, x).T
    target = random.normal(mean, scale(spread))

    def negative(parameters: Floats) -> float:
        mean, spread = linear(parameters, x).T
        return -float(stats.norm.logpdf(target, mean, scale(spread)).sum())

    assert_likeliest(found_by(HeteroscedasticRegression(), x, target), true, negative)


@pytest.mark.parametrize("rows", SIZES)
def test_the_share_of_zeros_and_the_amounts_are_found(rows: int) -> None:
    x, random = with_features(rows)
    true = np.array([0.7, 0.3, -0.6, 0.5, -0.4, 3.0, 0.2, 0.0, output_of(0.9)])
    logit, mean, spread = linear(true, x).T
    some = random.uniform(size=rows) < 1 / (1 + np.exp(-logit))
    target = np.where(some, np.exp(random.normal(mean, scale(spread))), 0.0)

    def negative(parameters: Floats) -> float:
        logit, mean, spread = linear(parameters, x).T
        density = stats.lognorm.logpdf(target[some], scale(spread[some]), scale=np.exp(mean[some]))
        return -float(density.sum() + stats.bernoulli.logpmf(some, 1 / (1 + np.exp(-logit))).sum())

    assert_likeliest(found_by(ZeroInflatedLogNormal(), x, target), true, negative)


def test_the_mean_of_amounts_is_that_of_the_distribution() -> None:
    output = torch.tensor([[0.4, 1.5, output_of(0.6)]], dtype=torch.float64)
    wanted = stats.lognorm.mean(0.6, scale=np.exp(1.5)) / (1 + np.exp(-0.4))
    assert ZeroInflatedLogNormal().predict(output)["value"].item() == pytest.approx(wanted)
    assert isinstance(ZeroInflatedLogNormal().logarithm, Regression)
