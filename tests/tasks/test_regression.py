"""Regression: losses by hand, standardisation, a loss of the user's own, metrics in the target's units."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, Likelihood, TargetError, TargetSpec

NAN, INF = float("nan"), float("inf")
NUMBER, VECTOR = TargetSpec(units="mm"), TargetSpec(shape=(3,), units="mm")
TERM = Likelihood(0.5, 0.5, "log_var")


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).cosh().log()


def root_of_ratio(output: Tensor, target: Tensor) -> Tensor:
    """A loss whose gradient is nan where output or target is 0."""
    return (output / target).abs().sqrt()


def some_vectors(rows: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, 3), targets (B, 3) of different size with missing ones, and the mask of labelled ones."""
    torch.manual_seed(0)
    target = torch.randn(rows, 3) * torch.tensor([0.1, 5.0, 300.0]) + torch.tensor([0.0, 20.0, -1000.0])
    mask = torch.rand(rows, 3) < 0.8
    return torch.randn(rows, 3), target.masked_fill(~mask, NAN), mask


# --------------------------------------------------------------------------------------------------------------- losses
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.25 + 9.0 + 4.0),
        ({"loss": "mse", "delta": 0.1}, 0.25 + 9.0 + 4.0),
        ({"loss": "l1"}, 0.5 + 3.0 + 2.0),
        ({"loss": "huber"}, 0.125 + (3 - 0.5) + (2 - 0.5)),
        ({"loss": "huber", "delta": 2.0}, 0.125 + 2 * (3 - 1) + 2.0),
        ({"loss": log_cosh, "likelihood": TERM}, sum(math.log(math.cosh(r)) for r in (0.5, 3.0, 2.0))),
    ],
)
def test_losses_by_hand(options: dict[str, Any], expected: float) -> None:
    task = Regression(NUMBER, **options)
    output, target = torch.tensor([[0.5], [-3.0], [7.0], [12.0]]), torch.tensor([0.0, 0.0, NAN, 10.0])
    assert task.loss(output, target).item() == pytest.approx(expected, rel=1e-6)
    assert task.count(target).item() == 3


def test_every_labelled_number_of_a_vector_is_an_element() -> None:
    output, target, mask = some_vectors()
    task = Regression(VECTOR)
    assert task.count(target) == mask.sum()
    torch.testing.assert_close(task.loss(output, target), (output - target)[mask].square().sum())
    (gradient,) = torch.autograd.grad(task.loss(output.requires_grad_(), target), output)
    assert gradient[mask].ne(0).all()
    assert gradient[~mask].eq(0).all()


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", root_of_ratio])
@pytest.mark.parametrize("standardize", [False, True])
def test_gradient_is_finite_and_zero_without_labels(loss: Any, standardize: bool) -> None:
    output, target, _ = some_vectors()
    task = Regression(VECTOR, loss=loss, likelihood=TERM, standardize=standardize)
    task.fit_target(target)
    for labels in (target, torch.full_like(target, NAN)):
        (gradient,) = torch.autograd.grad(task.loss(output.requires_grad_(), labels), output)
        assert gradient.isfinite().all()
        assert gradient[labels.isnan()].eq(0).all()


def test_half_precision_targets_are_compared_in_float32() -> None:
    target = torch.tensor([0.1, 2.7]).half()
    loss = Regression(NUMBER).loss(torch.zeros(2, 1), target)
    torch.testing.assert_close(loss, target.float().square().sum())


def test_a_module_may_be_the_loss() -> None:
    loss = nn.SmoothL1Loss(reduction="none", beta=2.0)
    task = Regression(NUMBER, loss=loss, likelihood=TERM)
    assert task.loss(torch.tensor([[1.0], [5.0]]), torch.zeros(2)).item() == pytest.approx(0.25 + 4.0)


# ------------------------------------------------------------------------------------------------------ standardisation
def test_statistics_agree_with_scikit_learn() -> None:
    _, target, mask = some_vectors()
    task = Regression(VECTOR, standardize=True)
    task.fit_target(target)
    scaler = StandardScaler().fit(target.double().numpy())  # which skips nan as well
    torch.testing.assert_close(task.target_mean.double(), torch.from_numpy(scaler.mean_), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(task.target_std.double(), torch.from_numpy(scaler.scale_), rtol=1e-6, atol=1e-6)
    standardised = torch.from_numpy(scaler.transform(target.double().numpy()))[mask]
    torch.testing.assert_close(task.loss(torch.zeros(50, 3), target).double(), standardised.square().sum())


def test_the_loss_is_standardised_and_the_prediction_is_not() -> None:
    task = Regression(NUMBER, standardize=True)
    task.fit_target(torch.tensor([[90.0], [NAN], [110.0]]))  # mean 100, standard deviation 10
    output, target = torch.tensor([[0.5]]), torch.tensor([125.0])
    assert task.loss(output, target).item() == pytest.approx(2.0**2)
    assert task.predict(output).tolist() == [105.0]
    assert task.estimate(output).tolist() == [[0.5]]
    assert task.target_scale == pytest.approx(10.0)


def test_delta_is_in_standardised_units() -> None:
    task = Regression(NUMBER, loss="huber", delta=1.0, standardize=True)
    task.fit_target(torch.tensor([90.0, 110.0]))
    assert task.loss(torch.zeros(1, 1), torch.tensor([130.0])).item() == pytest.approx(3 - 0.5)


def test_scale_is_the_root_mean_square_over_outputs() -> None:
    task = Regression(TargetSpec(shape=(2,)), standardize=True)
    task.fit_target(torch.tensor([[-3.0, 1.0], [3.0, 9.0]]))  # standard deviations 3 and 4
    assert task.target_scale is None  # 3 and 4: no one number turns a sigma of both into units
    assert Regression(VECTOR).target_scale == 1.0


@pytest.mark.parametrize("constant", [0.1, -1e6, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_single_and_missing_outputs_are_only_shifted(constant: float, dtype: torch.dtype) -> None:
    target = torch.full((1000, 3), NAN, dtype=dtype)
    target[:, 0], target[7, 1] = constant, 5.0
    task = Regression(VECTOR, standardize=True)
    task.fit_target(target)
    assert task.fitted
    assert task.target_std.tolist() == [1.0, 1.0, 1.0]
    assert task.target_mean.tolist() == pytest.approx([constant, 5.0, 0.0])
    assert task.loss(torch.zeros(1000, 3), target).item() == pytest.approx(0.0, abs=1e-3)


def test_values_too_close_for_float32_are_only_shifted() -> None:
    task = Regression(NUMBER, standardize=True)
    task.fit_target(torch.tensor([0.0, 1e-60], dtype=torch.float64))
    assert task.target_std.tolist() == [1.0]


def test_fits_once_and_only_if_asked() -> None:
    task = Regression(NUMBER, standardize=True)
    assert not was_fitted(task)
    task.fit_target(torch.tensor([0.0, 2.0]))
    task.fit_target(torch.tensor([50.0, 60.0]))
    assert was_fitted(task)
    assert task.target_mean.tolist() == [1.0]
    plain = Regression(NUMBER)
    plain.fit_target(torch.tensor([50.0, 60.0]))
    assert plain.fitted
    assert plain.predict(torch.ones(1, 1)).tolist() == [1.0]
    assert plain.state_dict() == {}


def was_fitted(task: Regression) -> bool:
    return task.fitted


def test_unfitted_statistics_are_no_statistics() -> None:
    task = Regression(NUMBER, standardize=True)
    with pytest.raises(ConfigurationError, match="Call `fit_target` with the training split's target"):
        task.loss(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(ConfigurationError, match="Call `fit_target` with the training split's target"):
        task.predict(torch.zeros(2, 1))


def test_an_invalid_target_is_not_fitted() -> None:
    task = Regression(NUMBER, standardize=True)
    with pytest.raises(TargetError, match="found inf in row 1"):
        task.fit_target(torch.tensor([1.0, INF]))
    assert not task.fitted


def test_statistics_survive_a_reload_within_a_parent() -> None:
    task, fresh = Regression(VECTOR, standardize=True), Regression(VECTOR, standardize=True)
    output, target, _ = some_vectors()
    task.fit_target(target)
    nn.ModuleDict({"depth": fresh}).load_state_dict(nn.ModuleDict({"depth": task}).state_dict())
    assert fresh.fitted
    assert torch.equal(fresh.predict(output), task.predict(output))
    fresh.fit_target(torch.zeros(2, 3))
    assert torch.equal(fresh.target_mean, task.target_mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_stay_precise_in_a_half_precision_network(dtype: torch.dtype) -> None:
    task = Regression(NUMBER, standardize=True)
    task.fit_target(torch.tensor([1999.0, 2003.0]))
    half = copy.deepcopy(task)
    nn.ModuleDict({"year": half}).to(dtype)
    assert half.predict(torch.tensor([[0.25]], dtype=dtype)).tolist() == [2001.5]
    assert task.double().predict(torch.tensor([[0.25]]).double()).dtype == torch.float64


@pytest.fixture
def default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize(
    ("default", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)], ids=str
)
def test_made_under_another_default_dtype(
    default: torch.dtype, expected: torch.dtype, default_dtype: Callable[[torch.dtype], None]
) -> None:
    default_dtype(default)
    assert Regression(NUMBER, popart=0.1).target_mean.dtype == expected
    assert Regression(NUMBER, standardize=True).target_mean.dtype == torch.float64


# -------------------------------------------------------------------------------------------------------------- metrics
@pytest.mark.parametrize("standardize", [False, True])
def test_metrics_are_in_the_targets_units_and_agree_with_scikit_learn(standardize: bool) -> None:
    output, target, mask = some_vectors()
    task = Regression(VECTOR, standardize=standardize)
    task.fit_target(target)
    metrics = task.metrics("val")
    for rows in (slice(0, 20), slice(20, 50)):
        task.update(metrics, output[rows], target[rows])
    prediction = task.predict(output)
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {
            "mae": mean_absolute_error(target[mask], prediction[mask]),
            "rmse": root_mean_squared_error(target[mask], prediction[mask]),
        }
    )


# -------------------------------------------------------------------------------------------------------------- options
@pytest.mark.parametrize("likelihood", [TERM, (0.5, 0.5, "log_var"), [0.5, 0.5, "log_var"]])
@pytest.mark.parametrize("loss", ["l1", log_cosh])
def test_a_likelihood_may_be_given_as_its_fields(likelihood: Any, loss: Any) -> None:
    assert Regression(NUMBER, loss=loss, likelihood=likelihood).likelihood == TERM


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (NUMBER, {"loss": log_cosh}, "expected a `likelihood` together with a loss of your own, found none"),
        (NUMBER, {"loss": "mae"}, r"expected `loss` to be a function or in \['mse', 'l1', 'huber'\], found 'mae'"),
        (TargetSpec(shape=(3, 4)), {}, r"vector \(D,\) per row in the TargetSpec, found \(3, 4\)"),
        (TargetSpec(shape=(0,)), {}, r"found \(0,\)"),
    ],
)
def test_options_out_of_range(spec: TargetSpec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Regression(spec, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduction_is_the_likelihoods_business_alone(reduction: Literal["mean", "sum"]) -> None:
    output, target, _ = some_vectors()
    task, plain = Regression(VECTOR, reduction=reduction), Regression(VECTOR)
    assert torch.equal(task.loss(output, target), plain.loss(output, target))
    assert torch.equal(task.count(target), plain.count(target))


# ------------------------------------------------------------------------------------------- far from zero, in float64
def test_a_target_far_from_zero_is_centred_before_it_is_rounded() -> None:
    """Seconds since 1970 within minutes: float32 has steps of 128 there."""
    seconds = 1.7e9 + 30 * torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    task = Regression(TargetSpec(), standardize=True)
    task.fit_target(seconds)
    wanted = (seconds - seconds.mean()) / seconds.std(correction=0)
    output = wanted.float().unsqueeze(1)
    assert task.loss(output, seconds) < 1e-9
    assert task.loss(output + 1, seconds).item() == pytest.approx(1000, rel=1e-5)
    predicted = task.predict(output)
    assert isinstance(predicted, Tensor)
    assert predicted.dtype == torch.float64
    torch.testing.assert_close(predicted, seconds, rtol=0, atol=1e-4)
    metrics = task.metrics("val")
    task.update(metrics, output + 1, seconds)
    assert metrics.compute()["rmse"].item() == pytest.approx(seconds.std(correction=0).item(), rel=1e-5)

    again = Regression(TargetSpec(), standardize=True)
    again.load_state_dict(task.state_dict())
    torch.testing.assert_close(again.half().predict(output), predicted, rtol=0, atol=0)


def test_a_usual_target_is_predicted_in_float32_and_old_statistics_load() -> None:
    task = Regression(TargetSpec(), standardize=True)
    task.fit_target(torch.tensor([99.0, 100.0, 101.0]))
    old = {name: value.float() if value.is_floating_point() else value for name, value in task.state_dict().items()}
    again = Regression(TargetSpec(), standardize=True)
    again.load_state_dict(old)
    output = torch.tensor([[0.5], [-1.0]])
    for made in (task, again):
        predicted = made.predict(output)
        assert isinstance(predicted, Tensor)
        assert predicted.dtype == torch.float32
        torch.testing.assert_close(predicted, 100 + output[:, 0] * (2 / 3) ** 0.5)
