"""Bounds between equal shares: of all numbers or a sample, the same however rows are cut, standardised as rows are."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtl_lightning.data import TableColumns, TableEncoder, TableFitter, TargetColumn
from mtl_lightning.data.table.quantiles import SHARES, Sample, bounds
from mtl_lightning.types import TableSpec, input_spec_from_dict


def sampled(numbers: Any, cuts: Any) -> Any:
    sample = Sample()
    for piece in np.split(numbers, cuts):
        sample.add(piece)
    return sample.finish()


def test_bounds_begin_their_shares() -> None:
    assert bounds(np.array([1.0, 2, 3, 4, 5, 6, 7, 8]), 4).tolist() == [3, 5, 7]
    assert bounds(np.array([0.0, 0, 0, 0, 0, 0, 5, 6, 7]), 3).tolist() == [5]  # the first share is most of them
    assert bounds(np.array([0.0, 0, 0, 1, 9, 9]), 3).tolist() == [1, 9]  # no more numbers than shares: one each
    assert bounds(np.array([4.0, 4, 4])).tolist() == []
    assert bounds(np.array([])).tolist() == []


@pytest.mark.parametrize("name", ["normal", "integers", "mostly zero"])
def test_shares_are_equal_and_none_is_empty(name: str) -> None:
    random = np.random.default_rng(0)
    found = {
        "normal": random.normal(size=5_000),
        "integers": random.integers(0, 200, 5_000).astype(float),
        "mostly zero": np.where(random.random(5_000) < 0.9, 0, random.lognormal(size=5_000)),
    }[name]
    inner = bounds(np.sort(found))
    shares = np.bincount(np.searchsorted(inner, found, side="right"), minlength=len(inner) + 1)
    assert 0 < len(inner) < SHARES
    assert shares.min() > 0
    if name == "normal":
        assert len(inner) == SHARES - 1
        assert shares.max() - shares.min() <= 1


def test_a_sample_does_not_depend_on_how_rows_are_cut() -> None:
    numbers = np.random.default_rng(1).normal(size=100_000)
    whole = sampled(numbers, [])
    assert len(whole) == 16_384
    for cuts in ([1], range(1_000, 100_000, 1_000), [40_000, 40_001, 99_999], [0, 16_384, 24_576, 24_577]):
        np.testing.assert_array_equal(sampled(numbers, cuts), whole)
    few = numbers[:16_384]
    np.testing.assert_array_equal(sampled(few, [3, 9_000]), np.sort(few))


def test_a_sample_can_be_copied_and_goes_on() -> None:
    numbers = np.random.default_rng(2).normal(size=60_000)
    sample = Sample()
    sample.add(numbers[:30_000])
    other = deepcopy(sample)
    for one in (sample, other):
        one.add(numbers[30_000:])
        np.testing.assert_array_equal(one.finish(), sampled(numbers, []))


@pytest.mark.parametrize("pattern", ["sorted", "periodic", "sawtooth"])
def test_a_sample_is_as_good_as_chance(pattern: str) -> None:
    """Quantiles of rows in any order, within 5 standard errors sqrt(p (1 - p) / 16,384) of their share."""
    places = np.arange(300_000)
    found = {"sorted": places, "periodic": places % 1024, "sawtooth": (places * 7919) % 300_007}[pattern].astype(float)
    for bound, share in zip(bounds(sampled(found, [77_777])), np.arange(1, SHARES) / SHARES, strict=False):
        below = (found < bound).mean()
        assert abs(below - share) < 5 * (share * (1 - share) / 16_384) ** 0.5 + 1 / 1024


def test_a_schema_has_the_quantiles_of_its_numbers_as_the_network_is_given_them() -> None:
    random = np.random.default_rng(3)
    amount = random.lognormal(3, 2, 3_000)
    rows = pa.table(
        {
            "amount": pa.array(amount, mask=random.random(3_000) < 0.1),
            "few": random.integers(0, 30, 3_000),
            "same": np.full(3_000, 5.5),
            "none": pa.nulls(3_000, pa.float64()),
            "y": random.random(3_000),
        }
    )
    declared = TableColumns({"y": TargetColumn(kind="number")}, numeric=["same", "none"], log1p=["amount"])
    fitter = TableFitter(declared)
    for start in range(0, 3_000, 700):
        fitter.update(rows.slice(start, 700))
    schema = fitter.finish()
    spec = input_spec_from_dict(schema["input_spec"])
    assert isinstance(spec, TableSpec)
    assert spec.quantiles.keys() == {"amount", "few"}
    assert len(spec.quantiles["few"]) == 29
    inputs = TableEncoder(schema).inputs(rows)["numeric"]
    given = inputs[:, spec.numeric.index("amount")]
    given = given[~np.isnan(given)]
    shares = np.bincount(np.searchsorted(np.array(spec.quantiles["amount"], np.float32), given, side="right"))
    assert len(shares) == SHARES
    assert shares.max() - shares.min() <= 2
    few = inputs[:, spec.numeric.index("few")]
    assert {*spec.quantiles["few"]} == {*np.unique(few)[1:].tolist()}  # the very numbers that rows have
