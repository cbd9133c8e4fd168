"""Calibration errors and Brier scores against torchmetrics and scikit-learn, intervals by hand; weights and gaps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import brier_score_loss
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from mtl_lightning.metrics import BrierScore, ExpectedCalibrationError, IntervalCoverage, IntervalWidth
from mtl_lightning.types import ConfigurationError
from tests.calibration import planted


def value(metric: Any, *given: Any, parts: int = 3) -> float:
    """Feed a metric in pieces."""
    for pieces in zip(*(torch.chunk(one, parts) for one in given), strict=True):
        metric.update(*pieces)
    return float(metric.compute())


YES, CLASSES = planted.yes_or_no(999, 0), planted.classes(999, 0)
P, Q = YES[0].sigmoid(), CLASSES[0].softmax(1)


@pytest.mark.parametrize("bins", [5, 15])
def test_the_error_is_that_of_torchmetrics(bins: int) -> None:
    theirs = binary_calibration_error(P, YES[1], n_bins=bins)
    assert value(ExpectedCalibrationError(bins), P, YES[1]) == pytest.approx(float(theirs), rel=1e-4)
    theirs = multiclass_calibration_error(Q, CLASSES[1], num_classes=5, n_bins=bins)
    assert value(ExpectedCalibrationError(bins), Q, CLASSES[1]) == pytest.approx(float(theirs), rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_score_is_that_of_scikit_learn(weighted: bool) -> None:
    weight = (torch.rand(999),) if weighted else ()
    theirs = brier_score_loss(YES[1], P, sample_weight=weight[0].numpy() if weight else None)
    assert value(BrierScore(), P, YES[1], *weight) == pytest.approx(theirs, rel=1e-5)
    each = ((Q - torch.eye(5)[CLASSES[1]]) ** 2).sum(1)
    by_hand = (each * weight[0]).sum() / weight[0].sum() if weight else each.mean()
    assert value(BrierScore(), Q, CLASSES[1], *weight) == pytest.approx(float(by_hand), rel=1e-4)


@pytest.mark.parametrize("metric", [BrierScore, ExpectedCalibrationError])
@pytest.mark.parametrize("given", [(P, YES[1]), (Q, CLASSES[1])])
def test_a_weight_counts_as_so_many_rows(metric: Any, given: tuple[Tensor, Tensor]) -> None:
    weight = torch.arange(999) % 4
    repeated = [one.repeat_interleave(weight, 0) for one in given]
    assert value(metric(), *given, weight.float()) == pytest.approx(value(metric(), *repeated), rel=1e-5)


@pytest.mark.parametrize("metric", [BrierScore, ExpectedCalibrationError])
def test_missing_labels_of_several_are_left_out(metric: Any) -> None:
    chances, labels = P.reshape(333, 3), YES[1].reshape(333, 3).clone()
    labels[::2, 1] = -100
    known = labels != -100
    assert value(metric(), chances, labels) == pytest.approx(value(metric(), chances[known], labels[known]), rel=1e-5)


def test_bins_by_hand() -> None:
    metric = ExpectedCalibrationError(bins=2)
    metric.update(torch.tensor([0.2, 0.4, 0.6, 1.0]), torch.tensor([0, 1, 1, 1]))
    assert float(metric.compute()) == pytest.approx((2 * abs(0.3 - 0.5) + 2 * abs(0.8 - 1)) / 4)
    confidence, met, share = metric.curve()
    torch.testing.assert_close(confidence, torch.tensor([0.3, 0.8]))
    assert (met.tolist(), share.tolist()) == ([0.5, 1.0], [0.5, 0.5])
    with pytest.raises(ConfigurationError, match=r"`bins`: expected at least 1, found 0"):
        ExpectedCalibrationError(bins=0)


def test_intervals_by_hand() -> None:
    low, high = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 6.0])
    truth, weight = torch.tensor([1.0, 2.5, 3.0]), torch.tensor([1.0, 2.0, 1.0])
    assert value(IntervalCoverage(), low, high, truth) == pytest.approx(2 / 3)
    assert value(IntervalCoverage(), low, high, truth, weight) == pytest.approx(0.5)
    assert value(IntervalWidth(), low, high, truth) == pytest.approx(3.0)
    assert value(IntervalWidth(), low, high, truth, weight) == pytest.approx((1 + 4 + 6) / 4)
