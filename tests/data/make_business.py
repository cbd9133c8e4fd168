"""Writes a shop's table as people have them: every kind of column, every kind of target, and a cause for each.

``python -m tests.data.make_business sales.csv --rows 200000 --users 50000`` writes one file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REGIONS = {"north": -0.8, "south": 0.5, "east": 0.0, "west": 0.9, "Île-de-France": -0.4}
TAGS = {"new": 0.5, "sale": 1.0, "gift": -0.6, "eco": 0.2, "premium": -1.0, "bulk": 0.1}
WORDS = {"superb": 1.2, "classic": 0.3, "plain": -0.5, "worn": -1.3, "blue": 0.0, "wooden": 0.0, "small": -0.1}
THINGS = ["lamp", "chair", "table", "clock", "mirror", "shelf"]
START, DAYS = np.datetime64("2023-01-01"), 700
CAUSES = ["user_id", "joined", "region", "age", "visits", "member", "income", "discount", "tags", "title"]
TARGETS = ["click", "dwell", "amount", "rating", "days", "churned"]


def business(rows: int = 2000, users: int = 200, *, seed: int = 0) -> dict[str, list[Any]]:
    """Return the columns of a table, each a list of ``rows`` cells as they stand in a file.

    Inputs, each of which moves at least one target: ``user_id`` (integers of 9 digits, ``users`` different ones),
    ``joined`` (ISO dates), ``region`` (text), ``age`` and ``visits`` (numbers, ``NA`` in 10 and 20 %), ``member`` (yes
    or no), ``income`` (``$31,415.93``), ``discount`` (``15 %``), ``tags`` (``eco|sale``, or nothing), ``title`` (text).

    Targets, from two sums of effects, interest and worth: ``click`` (0 or 1), ``dwell`` (seconds), ``amount`` (dollars;
    0 unless bought, as mostly), ``rating`` (1 to 5; only of what was bought, else ``NA``), ``days`` and ``churned``
    (the days until a customer left, with 1, or as many as were watched, with 0).
    """
    random = np.random.default_rng(seed)
    code = random.integers(0, users, rows)
    region, tag, word = (np.array([*table]) for table in (REGIONS, TAGS, WORDS))
    here, said = random.integers(0, len(region), rows), random.integers(0, len(word), (rows, 2))
    has = random.random((rows, len(tag))) < 0.25
    age, visits = random.normal(45, 14, rows).clip(18, 90).round(), random.poisson(6, rows)
    member, discount = random.random(rows) < 0.4, random.integers(0, 50, rows)
    income = np.exp(random.normal(10.5, 0.6, rows))
    joined = random.integers(0, DAYS, rows)

    user = np.random.default_rng(seed + 1).normal(0, 1, users)[code]
    words = np.array([*WORDS.values()])[said].sum(1)
    interest = user + np.array([*REGIONS.values()])[here] + has @ np.array([*TAGS.values()]) + 0.8 * member
    interest += 0.6 * words + 0.04 * (discount - 25) + 0.15 * (visits - 6)
    worth = 0.7 * np.log(income / 36_000) + 0.03 * (age - 45) + 0.5 * words - 0.02 * (discount - 25)

    click = random.random(rows) < _share(interest - 0.5)
    bought = random.random(rows) < _share(interest + worth - 2.5)
    liked = words + 0.5 * worth + random.logistic(0, 0.7, rows)
    left = random.exponential(120 * np.exp(0.5 * interest - 0.002 * (joined - DAYS / 2)))
    watched = random.uniform(30, 365, rows)
    cells: dict[str, Any] = {
        "user_id": 100_000_000 + 7 * code,
        "joined": np.datetime_as_string(START + joined),
        "region": region[here],
        "age": _with_gaps(age.astype(int), random.random(rows) < 0.1),
        "visits": _with_gaps(visits, random.random(rows) < 0.2),
        "member": np.where(member, "yes", "no"),
        "income": [f"${value:,.2f}" for value in income.tolist()],
        "discount": [f"{value} %" for value in discount.tolist()],
        "tags": ["|".join(tag[row]) for row in has],
        "title": [
            f"{word[first]} {word[second]} {thing} no. {number}"
            for (first, second), thing, number in zip(
                said.tolist(), random.choice(THINGS, rows), random.integers(1, 10_000, rows), strict=True
            )
        ],
        "click": click.astype(int),
        "dwell": np.exp(2.5 + 0.4 * interest + random.normal(0, 0.5, rows)).round(2),
        "amount": np.where(bought, np.exp(3 + 0.8 * worth + random.normal(0, 0.4, rows)), 0.0).round(2),
        "rating": _with_gaps(1 + np.digitize(liked, [-2.0, -0.7, 0.5, 1.8]), ~bought),
        "days": np.minimum(left, watched).round(1).clip(0.1),
        "churned": (left <= watched).astype(int),
    }
    return {name: np.asarray(column).tolist() for name, column in cells.items()}


def write_business(path: Path, rows: int = 2000, users: int = 200, *, seed: int = 0) -> Path:
    """Write :func:`business` as CSV; or, by the file's name, as Parquet of the same texts."""
    table = pa.table({name: list(map(str, column)) for name, column in business(rows, users, seed=seed).items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path)
    else:
        pc.write_csv(table, path, pc.WriteOptions(quoting_style="needed"))
    return path


def _share(odds: Floats) -> Floats:
    shares: Floats = 1 / (1 + np.exp(-odds))
    return shares


def _with_gaps(values: NDArray[np.int64], gone: NDArray[np.bool_]) -> NDArray[np.str_]:
    return np.where(gone, "NA", values.astype(str))


def main() -> None:
    """Read the options, write the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.data.make_business")
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_business(options.path, options.rows, options.users, seed=options.seed)


if __name__ == "__main__":
    main()
