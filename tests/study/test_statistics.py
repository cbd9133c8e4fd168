"""Intervals against scipy's, and what they promise against simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.study.statistics import difference, from_zero, mean_and_error, pooled

ONE = {0: 1.0, 1: 1.4, 2: 0.9, 3: 1.1, 4: 1.2}
OTHER = {0: 1.3, 1: 1.5, 2: 1.4, 3: 1.2, 4: 1.6}


@pytest.mark.parametrize("comparisons", [1, 6])
def test_a_paired_interval(comparisons: int) -> None:
    found = difference(ONE, OTHER, 0.9, comparisons)
    expected = stats.ttest_rel([*ONE.values()], [*OTHER.values()]).confidence_interval(1 - 0.1 / comparisons)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(-0.28)
    assert (found.seeds, found.paired) == (5, True)


@pytest.mark.parametrize("shift", [10, 4], ids=["no common seed", "one common seed"])
def test_an_unpaired_interval(shift: int) -> None:
    other = {seed + shift: value for seed, value in OTHER.items()}
    found = difference(ONE, other, 0.95, 3)
    test = stats.ttest_ind([*ONE.values()], [*other.values()], equal_var=False)
    expected = test.confidence_interval(1 - 0.05 / 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert not found.paired


def test_only_common_seeds_are_paired() -> None:
    found = difference({**ONE, 7: 100.0}, {**OTHER, 8: -100.0}, 0.95, 1)
    assert found == difference(ONE, OTHER, 0.95, 1)


@pytest.mark.parametrize("paired", [True, False])
def test_the_seeds_that_would_do_are_the_fewest_for_the_power(paired: bool) -> None:
    other = OTHER if paired else {seed + 10: value for seed, value in OTHER.items()}
    found = difference(ONE, other, 0.999, 4)
    assert not found.told_apart
    assert found.needed is not None
    assert found.needed > 5
    values = [np.array([*some.values()]) for some in (ONE, other)]
    variance = (values[0] - values[1]).var(ddof=1) if paired else values[0].var(ddof=1) + values[1].var(ddof=1)

    def power(seeds: int) -> float:
        """The exact one, of the noncentral t distribution."""
        freedom = seeds - 1 if paired else 2 * seeds - 2
        critical = stats.t.ppf(1 - 0.001 / 8, freedom)
        return float(stats.nct.sf(critical, freedom, abs(found.mean) * math.sqrt(seeds / variance)))

    assert power(found.needed) == pytest.approx(0.8, abs=0.06)
    assert power(found.needed - 1) < power(found.needed)


def test_a_pooled_interval_is_that_of_least_squares() -> None:
    """Of the model way + seed, worked out from its design matrix; for two ways it is the paired interval."""
    random = np.random.default_rng(3)
    seeds, names = [0, 1, 2, 5], ["a", "b", "c"]
    ways = {name: dict(zip(seeds, random.normal(size=4).tolist(), strict=True)) for name in names}
    couples = [("a", "c"), ("b", "c")]
    found = pooled({**ways, "a": {**ways["a"], 9: 100.0}}, couples, 0.9)  # a seed of one way alone does not count
    y = np.array([ways[name][seed] for name in names for seed in seeds])
    design = np.array([[*np.eye(3)[i], *np.eye(4)[j][1:]] for i in range(3) for j in range(4)])
    fitted, (rest,), _, _ = np.linalg.lstsq(design, y)
    inverse = np.linalg.inv(design.T @ design)
    for number, couple in enumerate(couples):
        contrast = np.zeros(6)
        contrast[number], contrast[2] = 1, -1
        width = stats.t.ppf(1 - 0.1 / 4, 6) * math.sqrt(contrast @ inverse @ contrast * rest / 6)
        own = found[couple]
        assert own.mean == pytest.approx(contrast @ fitted)
        assert (own.low, own.high) == pytest.approx((own.mean - width, own.mean + width))
    assert pooled({"x": ONE, "y": OTHER}, [("x", "y")], 0.95)["x", "y"].high == pytest.approx(
        difference(ONE, OTHER, 0.95, 1).high
    )
    assert pooled({"x": ONE, "y": {7: 1.0, 8: 2.0}}, [("x", "y")], 0.95)["x", "y"].paired is False


def test_what_tells_nothing() -> None:
    same = difference(ONE, ONE, 0.95, 1)
    assert (same.mean, same.told_apart, same.needed) == (0.0, False, None)
    constant = from_zero({0: 1.0, 1: 1.0}, 0.95, 1)
    assert (constant.told_apart, constant.needed) == (False, None)
    one_seed = from_zero({0: 1.0}, 0.95, 1)
    assert math.isnan(one_seed.low)
    assert not one_seed.told_apart
    assert not from_zero({}, 0.95, 1).told_apart
    assert not difference({0: 1.0}, {1: 5.0, 2: 7.0}, 0.95, 1).told_apart
    assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_together_at_their_level(paired: bool) -> None:
    """Four ways that are all alike, in 400 repetitions: in at most 5 % of them is any pair told apart."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        common = random.normal(size=5)
        ways = []
        for number in range(4):
            noise = random.normal(size=5)
            values = common + noise if paired else noise
            ways.append({seed + (0 if paired else 10 * number): v for seed, v in enumerate(values.tolist())})
        pairs = [(a, b) for a in range(4) for b in range(a)]
        wrong += any(difference(ways[a], ways[b], 0.95, len(pairs)).told_apart for a, b in pairs)
    assert wrong <= stats.binom.ppf(0.999, 400, 0.05)
    assert wrong > 0  # they are not so wide that nothing is ever told
