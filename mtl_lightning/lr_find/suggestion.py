"""Which rate a curve suggests, or why it suggests none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WIDTH = 0.25  # decades: the standard deviation of the window that smooths a curve
_LEAST = 0.02  # a gain of 2 % of the loss: less is no descent
_NOISE = 4.0  # standard deviations of the noise that a descent must exceed
_MOST = 0.8  # of the descent: the lowest rate that gets so far is suggested
_TAIL, _STILL = 0.5, 0.25  # decades, and of the steepest slope: a curve whose tail is steeper still falls

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Suggestion:
    """A rate, or a reason why there is none.

    Attributes:
        rate: the lowest that brings most of what any rate does.
        why: a sentence if there is no rate.
        descent: how far the smoothed curve falls, at least 0.
    """

    rate: float | None
    why: str = ""
    descent: float = 0.0


def suggest(rates: Sequence[float], gains: Sequence[float]) -> Suggestion:
    """Return the lowest rate with 80 % of the best one's descent: in a longer run smaller steps do better.

    The curve is smoothed with a Gaussian window of 0.25 decades. There is no suggestion without a descent (of less
    than 0.02, or less than 4 times the noise, which the differences from the smoothed curve tell), nor for one that
    begins before the lowest rate, or has not ended at the highest.

    Args:
        rates: (N,) ascending, of even distance on the logarithmic axis.
        gains: (N,) how far the loss is above that of the same updates without this group, below 0 where the group
            helps; nan where it is not known. What is infinite, or further above 0 than any descent, counts as
            diverged.
    """
    known = [(rate, gain) for rate, gain in zip(rates, gains, strict=True) if not math.isnan(gain)]
    if len(known) < 5:
        return Suggestion(None, "it diverged, or had no label, at all but a few rates: lower `lowest`.")
    x = np.log10([rate for rate, _ in known])
    raw = np.array([gain for _, gain in known], dtype=np.float64)
    lowest = float(raw.min())
    raw = np.minimum(raw, max(1.0, -lowest))  # how bad a diverged rate is does not matter
    smooth = _smoothed(x, raw)
    end = int(smooth.argmin())
    descent = max(0.0, -float(smooth[end]))
    away = np.abs(raw - smooth)[: end + 1]
    noise = 1.4826 * float(np.median(away[len(away) // 2 :]))
    if descent < max(_LEAST, _NOISE * noise):
        if smooth[0] > _LEAST:
            return Suggestion(None, "the loss is worse at every rate: lower `lowest`.", descent)
        return Suggestion(None, "the loss does not fall at any rate: this group matters little so far.", descent)
    slopes = np.gradient(smooth, x)
    if smooth[0] < -0.5 * descent:
        return Suggestion(None, "the loss has fallen at the lowest rate already: lower `lowest`.", descent)
    last = x >= x[-1] - _TAIL - 1e-9
    if last[end] and np.polyfit(x[last], raw[last], 1)[0] < _STILL * slopes[: end + 1].min():
        return Suggestion(None, "the loss still falls at the highest rate: raise `highest`.", descent)
    after = int((smooth <= -_MOST * descent).argmax())
    place = np.interp(_MOST * descent, -smooth[after - 1 : after + 1], x[after - 1 : after + 1])
    return Suggestion(float(10**place), "", descent)


def _smoothed(x: Curve, values: Curve) -> Curve:
    """Return values (N,) averaged over their neighbours at x (N,), by straight lines, which keep slopes at the ends."""
    found = np.empty_like(values)
    for index, place in enumerate(x):
        away = x - place
        weights = np.exp(-0.5 * (away / _WIDTH) ** 2)
        mean, spread = np.average(away, weights=weights), np.average(values, weights=weights)
        variance = np.average((away - mean) ** 2, weights=weights)
        slope = np.average((away - mean) * (values - spread), weights=weights) / max(float(variance), 1e-12)
        found[index] = spread - slope * mean
    return found
