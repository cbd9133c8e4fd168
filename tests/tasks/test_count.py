"""Counts: the deviance by hand and by other libraries, exposures, dispersion, parameters that are found."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]  # it ships no types
from sklearn.metrics import mean_poisson_deviance
from torch import Tensor

from mtl_lightning import MultiTaskModule, Predictor
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.tasks import Count, MulticlassClassification, Regression, Task
from mtl_lightning.types import ConfigurationError, TargetError, TargetSpec, TensorSpec
from tests.helpers import INPUTS, fit, make_module
from tests.tasks.recovery import Floats, assert_likeliest, found_by, linear, with_features

NAN = float("nan")
EXPOSED = TargetSpec(shape=(2,), names=("count", "exposure"))
SIZES = [pytest.param(2000, id="2000"), pytest.param(50_000, id="50000", marks=pytest.mark.slow)]


def spread(dispersion: float) -> float:
    """The output whose dispersion this is."""
    return float(np.log(np.expm1(dispersion - 1e-6)))


# ------------------------------------------------------------------------------------------------------------- the loss
def test_the_deviance_by_hand() -> None:
    output = torch.tensor([[0.0], [np.log(2.0)], [1.0], [0.0]])
    target = torch.tensor([1.0, 4.0, 0.0, NAN])
    parts = [0.0, 2 * (4 * np.log(2) - 2), 2 * np.e, 0.0]
    assert Count().loss(output, target).item() == pytest.approx(sum(parts))
    assert Count().count(target) == 3


@pytest.mark.parametrize("options", [{}, {"distribution": "negative_binomial"}])
def test_integers_and_floats_count_alike(options: dict[str, Any]) -> None:
    task, output = Count(**options), torch.randn(4, 2)[:, : Count(**options).output_size]
    floats, integers = torch.tensor([0.0, 3.0, NAN, 2.0]), torch.tensor([0, 3, -100, 2])
    assert torch.equal(task.loss(output, floats), task.loss(output, integers))
    assert task.count(integers) == task.count(floats) == 3


def test_an_exposure_multiplies_the_rate() -> None:
    output, counts, exposures = torch.randn(50, 1), torch.randint(0, 5, (50,)).float(), torch.rand(50) + 0.1
    found = Count(exposure=True).loss(output, torch.stack([counts, exposures], 1)) / 50
    mean = output[:, 0].exp() * exposures
    assert found.item() == pytest.approx(mean_poisson_deviance(counts.numpy(), mean.numpy()), rel=1e-5)


def test_the_negative_binomial_loss_is_the_likelihood_over_its_bound() -> None:
    random = np.random.default_rng(0)
    counts, mean, alpha = random.integers(0, 40, 200), random.uniform(0.1, 30, 200), random.uniform(0.01, 3, 200)
    size = 1 / alpha
    likely = stats.nbinom.logpmf(counts, size, size / (size + mean))
    wanted = 2 * (stats.poisson.logpmf(counts, np.maximum(counts, 1e-300)) - likely)
    output = torch.from_numpy(np.stack([np.log(mean), np.log(np.expm1(alpha - 1e-6))], 1))
    found = Count(distribution="negative_binomial").elementwise_loss(output, torch.from_numpy(counts).double())
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9)
    assert (found > 0).all()


def test_without_dispersion_it_is_the_deviance_down_to_its_least_of_0() -> None:
    rate, target = torch.tensor([0.5, 2.0, 9.0]).log(), torch.tensor([1.0, 2.0, 9.0])
    poisson = Count().elementwise_loss(rate[:, None], target)
    found = Count(distribution="negative_binomial").elementwise_loss(
        torch.stack([rate, torch.full((3,), -30.0)], 1), target
    )
    torch.testing.assert_close(found, poisson, rtol=1e-4, atol=1e-4)
    assert found[1:].abs().max() < 1e-4


@pytest.mark.parametrize("distribution", ["poisson", "negative_binomial"])
def test_extreme_outputs_have_finite_losses_and_gradients(distribution: Any) -> None:
    task = Count(distribution=distribution)
    for value in (-1e4, -60.0, 29.9, 30.1, 1e4, 6e4):
        for dtype in (torch.float16, torch.float32):
            output = torch.full((3, task.output_size), value, dtype=dtype, requires_grad=True)
            loss = task.loss(output, torch.tensor([0.0, 3.0, 1e6]))
            assert loss.isfinite()
            assert loss >= 0
            (gradient,) = torch.autograd.grad(loss.clamp(max=6e4), output)
            assert gradient.isfinite().all()


# ----------------------------------------------------------------------------------------------------------- the target
@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        (Count(), torch.tensor([1.0, 2.5]), "whole numbers from 0.*found 2.5 in row 1"),
        (Count(), torch.tensor([1, -3]), "found -3 in row 1"),
        (Count(), torch.tensor([True, False]), "an integer dtype, found torch.bool"),
        (Count(exposure=True), torch.tensor([[1.0, 0.0]]), "exposures above 0.*found 0.0 in row 0, column 1"),
        (Count(exposure=True), torch.tensor([[1.5, 1.0]]), "found 1.5 in row 0, column 0"),
        (Count(exposure=True), torch.tensor([1.0]), r"of shape \(B, 2\), found \(1,\)"),
        (Count(exposure=True), torch.tensor([[1, 2]]), "found torch.int64"),
    ],
)
def test_what_is_no_count_is_refused(task: Count, target: Tensor, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        task.check(target)


def test_a_count_without_its_exposure_is_missing() -> None:
    target = torch.tensor([[1.0, 2.0], [NAN, 2.0], [1.0, NAN]])
    task = Count(EXPOSED)
    task.check(target)
    assert task.labelled(target).tolist() == [True, False, False]
    assert task.count(target, torch.tensor([3.0, 1.0, 1.0])) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Count(TargetSpec(shape=(2,))), r"with the names \('count', 'exposure'\), found \(2,\) with \(\)"),
        (lambda: Count(EXPOSED, exposure=False), r"`exposure` .*\(2,\), found \(\)"),
        (lambda: Count(distribution=cast("Any", "binomial")), "'negative_binomial', found 'binomial'"),
    ],
)
def test_mistakes_are_told(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_standardised_count_starts_at_the_mean_rate() -> None:
    task = Count(exposure=True, standardize=True)
    with pytest.raises(ConfigurationError, match="fit_target"):
        task.predict(torch.zeros(1, 1))
    task.fit_target(torch.tensor([[3.0, 2.0], [NAN, 5.0], [3.0, 1.0]]))
    assert cast("Tensor", task.predict(torch.zeros(1, 1))).item() == pytest.approx(2.0)
    again = Count(exposure=True, standardize=True)
    again.load_state_dict(task.state_dict())
    assert torch.equal(cast("Tensor", again.predict(torch.ones(1, 1))), cast("Tensor", task.predict(torch.ones(1, 1))))


@pytest.mark.parametrize("events", [0.0, 2.0])
def test_the_trivial_rate_is_all_events_over_all_exposures(events: float) -> None:
    rows, weight = torch.tensor([[events, 2.0], [0.0, 1.0]]), torch.tensor([1.0, 3.0])
    found = Count(EXPOSED).trivial_prediction(rows, weight)
    assert found.exp().item() == pytest.approx((events or 1.0) / 5)  # half an event, of the mean weight, for none


# -------------------------------------------------------------------------------------------------- metrics and answers
def test_metrics_are_of_expected_counts_and_take_weights() -> None:
    output, counts, exposures, weight = (
        torch.randn(60, 1),
        torch.randint(0, 6, (60,)),
        torch.rand(60) + 0.5,
        torch.rand(60),
    )
    task = Count(EXPOSED)
    metrics = task.metrics("val")
    task.update(metrics, output, torch.stack([counts.float(), exposures], 1), weight)
    mean = (output[:, 0].exp() * exposures).numpy()
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["deviance"] == pytest.approx(mean_poisson_deviance(counts, mean, sample_weight=weight), rel=1e-5)
    assert found["mae"] == pytest.approx(np.average(abs(mean - counts.numpy()), weights=weight), rel=1e-5)
    assert found["rmse"] == pytest.approx(np.average((mean - counts.numpy()) ** 2, weights=weight) ** 0.5, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["poisson", "negative_binomial"])
def test_an_export_answers_alike(distribution: Any, tmp_path: Path) -> None:
    task = Count(units="claims a year", distribution=distribution, standardize=True)
    task.fit_target(torch.tensor([3, 5, 7]))
    made = make_module(tasks={"claims": task}).float()
    made.export(tmp_path / "model")
    x = np.random.default_rng(0).normal(size=(6, INPUTS)).astype(np.float32)
    wanted, found = Predictor(made)(x), Predictor.from_export(tmp_path / "model")(x)
    assert list(found["claims"]) == (["value"] if distribution == "poisson" else ["value", "dispersion"])
    for key, column in found["claims"].items():
        np.testing.assert_allclose(column, wanted["claims"][key], rtol=1e-5)
    assert found.decodings["claims"]["units"] == "claims a year"


def test_sigma_is_the_root_of_the_dispersion() -> None:
    """Twice as variable as a Poisson distribution says, with means large enough for the approximation."""
    random = np.random.default_rng(0)
    counts = torch.from_numpy(2.0 * random.poisson(50, 20_000))  # variance 200, mean 100
    task = Count()
    mean_deviance = task.loss(torch.full((20_000, 1), np.log(100.0)), counts) / 20_000
    balancer = UncertaintyWeighting(1, init="first_batch")
    balancer.bind({"claims": task.likelihood})
    balancer(mean_deviance.reshape(1).float(), torch.tensor([True]))
    assert balancer.sigmas().item() == pytest.approx(2**0.5, rel=0.02)
    assert task.target_scale is None


# ------------------------------------------------------------------------------------------------------------- recovery
@pytest.mark.parametrize("rows", SIZES)
def test_the_rates_of_poisson_counts_are_found(rows: int) -> None:
    x, random = with_features(rows)
    exposures, true = random.uniform(0.2, 3, rows), np.array([0.4, -0.6, -0.5])
    counts = random.poisson(exposures * np.exp(linear(true, x)[:, 0])).astype(float)

    def negative(parameters: Floats) -> float:
        return -float(stats.poisson.logpmf(counts, exposures * np.exp(linear(parameters, x)[:, 0])).sum())

    assert_likeliest(found_by(Count(EXPOSED), x, np.stack([counts, exposures], 1)), true, negative)


@pytest.mark.parametrize("rows", SIZES)
def test_the_rates_and_the_dispersion_of_negative_binomial_counts_are_found(rows: int) -> None:
    x, random = with_features(rows)
    true = np.array([0.4, -0.6, 0.5, 0.0, 0.0, spread(0.7)])
    mean, size = np.exp(linear(true, x)[:, 0]), 1 / 0.7
    counts = random.negative_binomial(size, size / (size + mean)).astype(float)

    def negative(parameters: Floats) -> float:
        rate, other = linear(parameters, x).T
        size = 1 / (np.log1p(np.exp(other)) + 1e-6)
        return -float(stats.nbinom.logpmf(counts, size, size / (size + np.exp(rate))).sum())

    assert_likeliest(found_by(Count(distribution="negative_binomial"), x, counts), true, negative)


# ---------------------------------------------------------------------------------------- against what was there before
def few_events(rows: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Features (N, 6), and three counts whose mean rates are 0.1, 0.25 and 0.5, each a function of three of them."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=random)
    rates = {
        name: rate * torch.exp(0.7 * x[:, i : i + 3].sum(1) / 3**0.5 - 0.245) for i, (name, rate) in enumerate(RATES)
    }
    return x, {name: torch.poisson(rate, generator=random) for name, rate in rates.items()}


RATES = (("a", 0.1), ("b", 0.25), ("c", 0.5))
EPOCHS = 10


def deviances(task: str, seed: int) -> list[float]:
    """The mean deviance on 20,000 other rows of each count, learned as counts, as classes, or as numbers."""
    x, counts = few_events(1000, seed)
    most = {name: int(count.max()) for name, count in counts.items()}
    made: dict[str, dict[str, Task]] = {
        "Count": {name: Count(standardize=True) for name in counts},
        "MulticlassClassification": {name: MulticlassClassification(num_classes=most[name] + 1) for name in counts},
        "Regression": {name: Regression(standardize=True) for name in counts},
    }
    targets = {name: count.long() if task.startswith("Multi") else count for name, count in counts.items()}
    for name, one in made[task].items():
        one.fit_target(targets[name])
    torch.manual_seed(seed)
    encoder, adam = partial(SharedBottom, encoder=partial(MLP, hidden=[16])), partial(torch.optim.Adam, lr=5e-3)
    module = MultiTaskModule(made[task], encoder, TensorSpec((6,)), optimizers={"default": adam})
    order = torch.cat([torch.randperm(1000, generator=torch.Generator().manual_seed(epoch)) for epoch in range(EPOCHS)])
    batches = [
        {"inputs": x[rows], "targets": {name: target[rows] for name, target in targets.items()}}
        for rows in torch.split(order, 50)
    ]
    fit(module, batches, precision="32-true")
    x, counts = few_events(20_000, 1000 + seed)
    predicted: dict[str, Any] = module.predict(x)
    expected: Any = {
        "Count": lambda name: predicted[name],
        "MulticlassClassification": lambda name: predicted[name]["probability"] @ torch.arange(most[name] + 1.0),
        "Regression": lambda name: predicted[name].clamp(min=0.01),
    }[task]
    return [mean_poisson_deviance(counts[name], expected(name).clamp(min=1e-6)) for name in counts]


@pytest.mark.slow
def test_few_events_are_counted_better_than_classified_or_regressed() -> None:
    found = {
        task: np.array([deviances(task, seed) for seed in range(10)]).mean(1)
        for task in ("Count", "MulticlassClassification", "Regression")
    }
    print({task: (round(float(each.mean()), 4), round(float(each.std(ddof=1)), 4)) for task, each in found.items()})  # noqa: T201
    for other in ("MulticlassClassification", "Regression"):
        better = found[other] - found["Count"]
        assert better.mean() > 2 * better.std(ddof=1) / 10**0.5, (other, better)
