"""Depth: its losses by hand, what counts as a value, and metrics over pixels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from mtl_lightning.tasks import DepthEstimation, Task
from mtl_lightning.tasks.likelihoods import GAUSSIAN, HUBER, LAPLACE
from mtl_lightning.types import ConfigurationError, Likelihood, TargetError, TargetSpec

SPEC = TargetSpec(shape=(4, 5), units="metres")
NAN = torch.nan


def depths(rows: int, *, gaps: float = 0.3) -> Tensor:
    target = 0.5 + 4 * torch.rand(rows, 4, 5)
    return target.masked_fill(torch.rand(target.shape) < gaps, 0.0)


def quartic(output: Tensor, target: Tensor) -> Tensor:
    return (output - target) ** 4


# ----------------------------------------------------------------------------------------------------------------- loss
@pytest.mark.parametrize(
    ("loss", "expected", "likelihood"),
    [
        ("l1", 0.3 + 3.0, LAPLACE),
        ("l2", 0.09 + 9.0, GAUSSIAN),
        ("huber", 0.045 + 0.5 * (3.0 - 0.25), HUBER),
        ("berhu", 0.3 + (9.0 + 0.25) / 1.0, LAPLACE),
        ("log", abs(1.3 - math.log(1.0)) + abs(5.0 - math.log(2.0)), LAPLACE),
    ],
)
def test_loss_of_two_pixels_by_hand(loss: Any, expected: float, likelihood: Likelihood) -> None:
    """Residuals 0.3 and 3 (outputs are logarithms with `log`); delta 0.5; the other two pixels have no value."""
    task = DepthEstimation(TargetSpec(), loss=loss, delta=0.5)
    output = torch.tensor([[1.3, 5.0], [7.0, 8.0]])[None, None].requires_grad_()
    target = torch.tensor([[1.0, 2.0], [0.0, NAN]])[None]
    found = task.loss(output, target)
    assert found.item() == pytest.approx(expected)
    assert task.count(target) == 2
    assert task.likelihood == likelihood
    (slope,) = torch.autograd.grad(found, output)
    assert not slope[0, 0, 1].any()
    assert slope[0, 0, 0].all()


def test_berhu_is_smooth_where_it_changes_form() -> None:
    task = DepthEstimation(TargetSpec(), loss="berhu", delta=0.7)
    residual = torch.tensor([0.699, 0.701]).requires_grad_()
    output = (1 + residual).reshape(1, 1, 1, 2)
    (slope,) = torch.autograd.grad(task.loss(output, torch.ones(1, 1, 2)), residual)
    torch.testing.assert_close(slope, torch.ones(2), atol=2e-3, rtol=0)


def test_a_loss_of_ones_own_needs_a_likelihood_and_comes_from_yaml() -> None:
    with pytest.raises(ConfigurationError, match="expected a `likelihood` together with a loss of your own"):
        DepthEstimation(SPEC, loss=quartic)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--task", type=Task)
    options = {"loss": f"{__name__}.quartic", "likelihood": [1.0, 0.25, "log_scale"], "spec": {"shape": [4, 5]}}
    yaml = {"task": {"class_path": "DepthEstimation", "init_args": options}}
    task = parser.instantiate(parser.parse_object(yaml)).task
    assert task.likelihood == Likelihood(1.0, 0.25, "log_scale")
    output, target = torch.randn(2, 1, 4, 5), depths(2)
    expected = ((output[:, 0] - target) ** 4)[target != 0].sum()
    torch.testing.assert_close(task.loss(output, target), expected)


@pytest.mark.parametrize(
    ("loss", "delta"),
    [
        ("l3", 1.0),
    ],
)
def test_other_losses_are_refused(loss: Any, delta: float) -> None:
    with pytest.raises(ConfigurationError, match="DepthEstimation: expected"):
        DepthEstimation(SPEC, loss=loss, delta=delta)


# ------------------------------------------------------------------------------------------------------ what is a value
@pytest.mark.parametrize(("invalid", "expected"), [(0.0, [1, 0, 1]), (None, [1, 1, 1]), (-1.0, [1, 1, 1])])
def test_invalid_marks_pixels_without_a_value(invalid: float | None, expected: list[int]) -> None:
    task = DepthEstimation(TargetSpec(), invalid=invalid)
    target = torch.tensor([[[2.0, 0.0, 3.0, NAN]]])
    if invalid == -1.0:
        target[target.isnan()] = -1.0
    task.check(target)
    assert task.labelled(target)[0, 0].tolist() == [*map(bool, expected), False]
    assert task.loss(torch.ones(1, 1, 1, 4), target) == sum(
        abs(1 - value) for value, kept in zip([2.0, 0.0, 3.0], expected, strict=True) if kept
    )


@pytest.mark.parametrize(
    ("loss", "value", "wanted"), [("l1", -1.0, "of at least 0"), ("l1", torch.inf, "of at least 0")]
)
def test_negative_and_infinite_depths_are_refused(loss: Any, value: float, wanted: str) -> None:
    task, target = DepthEstimation(SPEC, loss=loss), depths(3)
    target[1, 3, 2] = value
    assert task.count(target).isnan()
    with pytest.raises(TargetError, match=rf"finite numbers {wanted} or nan or 0.0 .* {value} in row 1, pixel \(3, 2"):
        task.check(target)


def test_a_logarithm_needs_more_than_zero() -> None:
    task = DepthEstimation(SPEC, loss="log", invalid=None)
    with pytest.raises(TargetError, match=r"finite numbers above 0 or nan for missing, found 0\.0"):
        task.check(torch.zeros(2, 4, 5))


def test_a_channel_axis_and_a_row_without_a_map() -> None:
    task, output, target = DepthEstimation(SPEC), torch.randn(3, 1, 4, 5), depths(3)
    target[1] = NAN
    flat = task.loss(output, target)
    torch.testing.assert_close(task.loss(output, target[:, None]), flat)
    torch.testing.assert_close(task.loss(output[[0, 2]], target[[0, 2]]), flat)
    assert DepthEstimation(TargetSpec(shape=(1, 4, 5))).loss(output, target[:, None]) == flat


# -------------------------------------------------------------------------------------------------------------- metrics
def test_metrics_are_means_over_pixels_of_the_whole_set() -> None:
    """Not over batches, which have very different numbers of valid pixels here."""
    task, output, target = DepthEstimation(SPEC), torch.rand(6, 1, 4, 5), depths(6)
    target[0] = 0.0
    target[1, :, :4] = NAN
    metrics = task.metrics("val")
    for cut in (slice(0, 1), slice(1, 2), slice(2, 6)):
        task.update(metrics, output[cut], target[cut])
    valid = (target > 0) & ~target.isnan()
    error = (output[:, 0] - target)[valid].abs()
    found = metrics.compute()
    torch.testing.assert_close(found["abs_error"], error.mean())
    torch.testing.assert_close(found["rel_error"], (error / target[valid]).mean())


# ------------------------------------------------------------------------------------------------------------ the units
@pytest.mark.parametrize("loss", ["l1", "log"])
def test_standardised_targets_have_mean_0_and_variance_1(loss: Any) -> None:
    task, target = DepthEstimation(SPEC, loss=loss, standardize=True), depths(50)
    with pytest.raises(ConfigurationError, match="mean and standard deviation to be fitted, found none"):
        task.predict(torch.zeros(1, 1, 4, 5))
    DepthEstimation(SPEC, standardize=True).fit_target(target[:, ::2, ::2])  # a part of the pixels will do
    task.fit_target(target[:, None])
    values = target[target > 0].log() if loss == "log" else target[target > 0]
    scale = None if loss == "log" else pytest.approx(float(values.std(correction=0)), rel=1e-5)
    assert task.target_scale == scale  # a noise of logarithms is relative to the depth, not in metres
    output = ((values - values.mean()) / values.std(correction=0)).reshape(1, 1, 1, -1)
    free = DepthEstimation(TargetSpec(), loss=loss, standardize=True)
    free.load_state_dict(task.state_dict())
    torch.testing.assert_close(free.predict(output).flatten(), target[target > 0], rtol=1e-4, atol=1e-5)
    assert free.loss(output, target[target > 0].reshape(1, 1, -1)) < 1e-2


def test_predictions_have_the_size_of_the_labels() -> None:
    task = DepthEstimation(SPEC)
    coarse = torch.tensor([[1.0, 3.0], [5.0, 7.0]])[None, None]
    found = task.predict(coarse)
    assert found.shape == (1, 4, 5)
    torch.testing.assert_close(found[0, [0, 0, 3, 3], [0, 4, 0, 4]], torch.tensor([1.0, 3.0, 5.0, 7.0]))  # corners
    assert found[0, 0, 2] == 2.0
