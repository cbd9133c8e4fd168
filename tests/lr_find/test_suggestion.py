"""Curves of known form, and what is suggested of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_lightning.lr_find import suggest

RATES = np.geomspace(1e-6, 1e2, 160)
MOST = 10 ** (0.4 * math.log(4))  # how far above its middle a step of `descent` has gone four fifths of its way
X = np.log10(RATES)


def descent(at: float, depth: float = 1.0, width: float = 0.4) -> np.ndarray:
    """A smooth step down by ``depth``, steepest at a rate."""
    return -depth / (1 + np.exp(-(X - math.log10(at)) / width))


@pytest.mark.parametrize("at", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("depth", [0.1, 3.0])
def test_the_lowest_rate_with_most_of_the_descent_is_suggested(at: float, depth: float) -> None:
    rise = np.where(math.log10(at) + 2 < X, 10 * (X - math.log10(at) - 2), 0.0)
    found = suggest(RATES.tolist(), (descent(at, depth) + rise).tolist())
    assert found.rate == pytest.approx(MOST * at, rel=0.4)
    assert found.descent == pytest.approx(depth, rel=0.3)
    assert not found.why


@pytest.mark.parametrize("seed", range(5))
def test_noise_moves_it_little(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.05, len(X)) * (X > -3)  # trajectories part as rates grow
    rate = suggest(RATES.tolist(), (descent(1e-2) + noise).tolist()).rate
    assert rate is not None
    assert abs(math.log10(rate / MOST) + 2) < 0.5


@pytest.mark.parametrize("bad", [math.inf, 1e30])
def test_how_badly_it_diverges_does_not_matter(bad: float) -> None:
    curve = descent(1e-2)
    curve[-40:] = bad
    rate = suggest(RATES.tolist(), curve.tolist()).rate
    assert rate == pytest.approx(MOST * 1e-2, rel=0.4)


def test_rates_without_a_label_are_left_out() -> None:
    curve = descent(1e-2)
    curve[::3] = math.nan
    assert suggest(RATES.tolist(), curve.tolist()).rate == pytest.approx(MOST * 1e-2, rel=0.4)


@pytest.mark.parametrize(
    ("curve", "why"),
    [
        (0 * X, "does not fall"),
        (descent(1e-2, depth=0.01), "does not fall"),
        (np.random.default_rng(0).normal(0, 0.05, len(X)), "does not fall"),
        (descent(1e2, width=0.8), "raise `highest`"),
        (-1.0 + 0 * X, "lower `lowest`"),
        (1.0 + 0 * X, "lower `lowest`"),
        (np.full(len(X), math.nan), "lower `lowest`"),
    ],
    ids=["flat", "tiny", "noise", "no minimum", "fallen before", "worse everywhere", "unknown"],
)
def test_no_rate_is_better_than_a_wrong_one(curve: np.ndarray, why: str) -> None:
    found = suggest(RATES.tolist(), curve.tolist())
    assert found.rate is None
    assert why in found.why


def test_a_flat_end_needs_no_minimum() -> None:
    """Of learned weights of losses: any rate above some is as good for the objective."""
    assert suggest(RATES.tolist(), descent(1e-2).tolist()).rate == pytest.approx(MOST * 1e-2, rel=0.4)
