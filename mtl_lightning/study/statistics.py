r"""How sure a difference is: t intervals, paired where two ways were run with the same seeds, and seeds that would do.

An interval at level c that is one of k holds with c / k in the place of the error alone (Bonferroni): all k hold
together with at least c. With the standard deviation s of n paired differences of mean d, the seeds that would tell two
ways apart are the smallest n' with

.. math:: (t_{1 - (1 - c) / 2k,\, n' - 1} + t_{0.8,\, n' - 1}) \; s / \sqrt{n'} \le |d|,

so that an interval of n' seeds excludes 0 with a probability of about 0.8 if d and s are what they seem. Unpaired,
:math:`s^2` is the sum of both variances and there are 2n' - 2 degrees of freedom.

Pooled, all k ways share one spread: with their values :math:`y_{ws}` in n common seeds and means over ways, over seeds
and over both, a difference of two has the :math:`s^2 = 2 \sum_{ws} (y_{ws} - \bar y_w - \bar y_s + \bar y)^2 /
(k - 1)(n - 1)` and (k - 1)(n - 1) degrees of freedom (a two-way layout without interaction). For two ways it is the
paired interval. With few seeds it is much narrower, and right only where ways vary about as much from seed to seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

__all__ = ["Difference", "difference", "from_zero", "mean_and_error", "pooled"]

POWER = 0.8
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Difference:
    """A mean difference and what is known of it.

    Attributes:
        mean: its mean.
        low: the interval's lower end; nan with fewer than two seeds.
        high: the upper end.
        seeds: how many went into it, the smaller number of two ways.
        paired: whether the two ways had these seeds in common.
        needed: seeds a way that would probably do if it is not told apart; None if it is, or no number would.
    """

    mean: float
    low: float
    high: float
    seeds: int
    paired: bool
    needed: int | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes 0; one without any spread between seeds tells nothing."""
        return self.low < self.high and (self.low > 0 or self.high < 0)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; nan for the error of one value."""
    found = np.asarray(values, dtype=float)
    error = float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else math.nan
    return float(found.mean()), error


def from_zero(values: Mapping[int, float], confidence: float, comparisons: int) -> Difference:
    """Return how far values (by seed) are from 0.

    Args:
        values: by seed; differences of pairs, for a paired comparison.
        confidence: the level, of all comparisons together.
        comparisons: how many intervals hold together.
    """
    found = np.asarray([*values.values()], dtype=float)
    mean, error = mean_and_error(found.tolist()) if len(found) else (math.nan, math.nan)
    width = _quantile(confidence, comparisons, len(found) - 1) * error if len(found) > 1 else math.nan
    result = Difference(mean, mean - width, mean + width, len(found), paired=True)
    spread = error * math.sqrt(len(found)) if len(found) > 1 else math.nan
    return _with_needed(result, spread, confidence, comparisons)


def difference(one: Mapping[int, float], other: Mapping[int, float], confidence: float, comparisons: int) -> Difference:
    """Return by how much one way's values (by seed) are above the other's: paired with two seeds in common, else not.

    Unpaired it is Welch's interval.

    Args:
        one: by seed.
        other: by seed.
        confidence: the level, of all comparisons together.
        comparisons: how many intervals hold together.
    """
    common = [seed for seed in one if seed in other]
    if len(common) > 1 or not one or not other:
        return from_zero({seed: one[seed] - other[seed] for seed in common}, confidence, comparisons)
    first, second = (np.asarray([*values.values()], dtype=float) for values in (one, other))
    mean, seeds = float(first.mean() - second.mean()), min(len(first), len(second))
    if seeds < 2:
        return Difference(mean, math.nan, math.nan, seeds, paired=False)
    parts = [float(values.var(ddof=1)) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    freedom = (
        sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
        if error
        else seeds - 1
    )
    width = _quantile(confidence, comparisons, freedom) * error
    result = Difference(mean, mean - width, mean + width, seeds, paired=False)
    spread = math.sqrt(float(first.var(ddof=1)) + float(second.var(ddof=1)))
    return _with_needed(result, spread, confidence, comparisons, 2)


def pooled(
    values: Mapping[str, Mapping[int, float]], couples: Sequence[tuple[str, str]], confidence: float
) -> dict[tuple[str, str], Difference]:
    """Return by how much the first of each couple is above the second, with a spread that all ways share.

    Args:
        values: by way and seed; only seeds that all ways have count.
        couples: of ways; their intervals hold together.
        confidence: the level, of all couples together.
    """
    seeds = [seed for seed in next(iter(values.values()), {}) if all(seed in own for own in values.values())]
    if len(values) < 2 or len(seeds) < 2:
        return {(a, b): difference(values[a], values[b], confidence, len(couples)) for a, b in couples}
    found = np.array([[own[seed] for seed in seeds] for own in values.values()])
    left = found - found.mean(0) - found.mean(1, keepdims=True) + found.mean()
    spread = math.sqrt(2 * float(np.square(left).sum()) / ((len(values) - 1) * (len(seeds) - 1)))
    width = _quantile(confidence, len(couples), (len(values) - 1) * (len(seeds) - 1)) * spread / math.sqrt(len(seeds))
    means = dict(zip(values, found.mean(1).tolist(), strict=True))
    result = {}
    for one, other in couples:
        mean = means[one] - means[other]
        own = Difference(mean, mean - width, mean + width, len(seeds), paired=True)
        result[one, other] = _with_needed(own, spread, confidence, len(couples), len(values) - 1)
    return result


def _quantile(confidence: float, comparisons: int, freedom: float) -> float:
    from scipy.stats import t  # type: ignore[import-untyped]  # it ships no types

    return float(t.ppf(1 - (1 - confidence) / (2 * comparisons), freedom))


def _with_needed(found: Difference, spread: float, confidence: float, comparisons: int, freedom: int = 1) -> Difference:
    """Add the number of seeds that would probably tell it apart, if it is not; each seed after the first brings so many
    degrees of freedom.
    """
    if found.told_apart or not found.mean or not spread > 0:
        return found
    enough = np.flatnonzero(_least_effects(confidence, comparisons, freedom) * spread <= abs(found.mean))
    first = int(enough[0]) + 2 if len(enough) else None
    return Difference(found.mean, found.low, found.high, found.seeds, found.paired, first)


@cache
def _least_effects(confidence: float, comparisons: int, of_seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the differences, in standard deviations, that 2, 3, ... seeds would tell with the power."""
    from scipy.stats import t

    seeds = np.arange(2, MOST_SEEDS + 1)
    freedom = of_seed * (seeds - 1)
    quantiles = t.ppf(1 - (1 - confidence) / (2 * comparisons), freedom) + t.ppf(POWER, freedom)
    return np.asarray(quantiles / np.sqrt(seeds), dtype=np.float64)
