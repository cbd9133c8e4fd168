"""Temperatures, lines and isotonic regressions: against scikit-learn, a search of scipy's, and what was planted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]  # it ships no types
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from torch import Tensor
from torch.nn import functional as F

from mtl_lightning.calibration import NotCalibratedError, isotonic, platt, temperature
from mtl_lightning.core.network.calibration import calibrated
from mtl_lightning.metrics import ExpectedCalibrationError
from tests.calibration import planted

ROWS = 10_000


def ece(probability: Tensor, truth: Tensor) -> float:
    metric = ExpectedCalibrationError(bins=15)
    metric.update(probability, truth)
    return float(metric.compute())


# ------------------------------------------------------------------------------------------ planted faults are repaired
def test_a_temperature_repairs_logits_that_are_three_times_too_large() -> None:
    found = temperature(*planted.classes(ROWS, 0))
    logits, truth = planted.classes(ROWS, 1)
    assert found == pytest.approx(planted.FACTOR, rel=0.05)
    assert ece(logits.softmax(1), truth) > 0.1
    assert ece((logits / found).softmax(1), truth) < 0.02


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_yes_or_no_is_repaired(method: str) -> None:
    logits, labels = planted.yes_or_no(ROWS, 0)
    if method == "platt":
        slope, intercept = platt(logits, labels)
        assert slope == pytest.approx(1 / planted.FACTOR, rel=0.05)
        assert intercept == pytest.approx(0, abs=0.05)
        known = {"method": method, "slope": [slope], "intercept": [intercept]}
    else:
        x, y = isotonic(logits, labels)
        known = {"method": method, "x": [x], "y": [y]}
    logits, labels = planted.yes_or_no(ROWS, 1)
    assert ece(logits.sigmoid(), labels) > 0.1
    assert ece(calibrated(logits.unsqueeze(1), known).sigmoid()[:, 0], labels) < 0.02


# -------------------------------------------------------------------------------------------------------------- oracles
@pytest.mark.parametrize("weighted", [False, True])
def test_the_temperature_has_the_least_loss(weighted: bool) -> None:
    logits, truth = planted.classes(300, 3, 3)
    weight = torch.rand(300, dtype=torch.float64) if weighted else torch.ones(300, dtype=torch.float64)

    def loss(log_t: float) -> float:
        losses = F.cross_entropy(logits.double() / np.exp(log_t), truth, reduction="none")
        return float((losses * weight).sum())

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    assert temperature(logits, truth, weight if weighted else None) == pytest.approx(float(np.exp(best.x)), rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [30, 400])
def test_the_line_is_that_of_scikit_learn(rows: int, weighted: bool) -> None:
    logits, labels = planted.yes_or_no(rows, 4)
    weight = torch.rand(rows, dtype=torch.float64) + 0.1 if weighted else torch.ones(rows, dtype=torch.float64)
    theirs = _SigmoidCalibration().fit(logits.double().numpy(), labels.numpy(), (weight / weight.mean()).numpy())
    slope, intercept = platt(logits, labels, weight if weighted else None)
    assert slope == pytest.approx(-theirs.a_, rel=1e-3)
    assert intercept == pytest.approx(-theirs.b_, rel=1e-3, abs=1e-3)


def test_the_line_is_finite_where_labels_can_be_separated() -> None:
    slope, intercept = platt(torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 1]))
    wanted = 3 / 4  # (2 + 1) / (2 + 2) of the yeses
    chance = torch.sigmoid(torch.tensor([-2.0, -1.0, 1.0, 2.0]) * slope + intercept)
    assert float(chance[2:].mean()) == pytest.approx(wanted, abs=0.05)
    assert intercept == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_steps_are_those_of_scikit_learn(weighted: bool) -> None:
    logits, labels = planted.yes_or_no(400, 5)
    logits = (logits * 4).round() / 4  # with ties
    weight = torch.rand(400, dtype=torch.float64) + 0.1 if weighted else torch.ones(400, dtype=torch.float64)
    x, y = isotonic(logits, labels, weight if weighted else None)
    least = 1 / 402
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(logits, labels, sample_weight=weight)
    places = torch.linspace(-9, 9, 500)
    ours = calibrated(places.unsqueeze(1), {"method": "isotonic", "x": [x], "y": [y]}).sigmoid()[:, 0]
    heights = np.interp(places, theirs.X_thresholds_, theirs.y_thresholds_.clip(least, 1 - least))
    np.testing.assert_allclose(ours.numpy(), heights, rtol=1e-4, atol=1e-5)


def test_long_regressions_are_thinned_and_stay_true() -> None:
    logits = torch.linspace(-4, 4, 3000)
    labels = (torch.arange(3000) % 2) * (torch.rand(3000) < 0.5) | (logits > 2)
    jumbled = logits + torch.linspace(0, 1e-3, 3000)
    x, y = isotonic(jumbled, labels.long())
    assert len(x) == len(y) <= 400
    assert x == sorted(x)
    assert y == sorted(y)


@pytest.mark.parametrize("method", [platt, isotonic, temperature])
def test_a_weight_counts_as_so_many_rows(method: Callable[..., object]) -> None:
    logits, labels = planted.classes(200, 6, 2) if method is temperature else planted.yes_or_no(200, 6)
    weight = torch.tensor([1, 2, 3, 4] * 50)
    found, repeated = (
        method(logits, labels, weight),
        method(*(one.repeat_interleave(weight, 0) for one in (logits, labels))),
    )
    if method is temperature:
        assert found == pytest.approx(repeated)
    elif method is isotonic:  # but for the distance to 0 and 1, which is of the rows
        assert found[0] == repeated[0]  # type: ignore[index]  # knots
    else:
        assert found == pytest.approx(repeated, rel=0.1)  # Platt's targets are of the rows, too


# -------------------------------------------------------------------------------------------- where there is none to be
NONE: list[tuple[Callable[..., object], Tensor, Tensor, str]] = [
    (platt, torch.randn(20), torch.ones(20), "all the same"),
    (platt, torch.tensor([-1.0, -1.0, 1.0, 1.0] * 9), torch.tensor([1, 1, 0, 0] * 9), "do not rise"),
    (isotonic, torch.tensor([-1.0, 1.0] * 9), torch.tensor([1, 0] * 9), "do not rise"),
    (isotonic, torch.randn(20), torch.zeros(20), "all the same"),
    (temperature, torch.eye(3), torch.arange(3), "without a mistake"),
    (temperature, torch.eye(2), torch.tensor([1, 0]), "tell nothing"),
]


@pytest.mark.parametrize(("method", "logits", "truth", "reason"), NONE)
def test_it_is_said_why_there_is_none(
    method: Callable[..., object], logits: Tensor, truth: Tensor, reason: str
) -> None:
    with pytest.raises(NotCalibratedError, match=reason):
        method(logits, truth)
