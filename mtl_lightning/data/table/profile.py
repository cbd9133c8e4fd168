"""What is learned of one column from its training rows, a piece of the table at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.data.table.cells import CellError, numbers, texts

Kind = Literal["number", "category"]

FEW = 20  # integers with at most as many different values are taken for categories
_OPEN = 1_000  # different numbers that are remembered until it is known that the column is one of numbers
_TOO_MANY = 100_000  # different texts in a column of unknown kind; more are no categories to learn


@dataclass
class Moments:
    """Number, mean and summed squared deviations of the values met, by the exact rule for two groups together."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Add values (N,), none of them nan."""
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        squares = float(np.square(values - mean).sum())
        total, apart = self.count + count, mean - self.mean
        self.squares += squares + apart * apart * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    @property
    def std(self) -> float:
        """The standard deviation, dividing by the number of values; 1 for a column that never varies."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-12 * abs(self.mean) else 1.0


@dataclass
class Profile:
    """Follows one column.

    Args:
        kind: what the column is to be read as; None to find it out, which takes both and keeps either.
        missing: what stands for a missing value.
        log1p: follow the moments of sign(x) log(1 + abs(x)).
    """

    kind: Kind | None
    missing: Collection[str] = ()
    log1p: bool = False
    moments: Moments = field(default_factory=Moments)
    counts: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    is_numeric: bool = True
    is_integer: bool = True
    is_counted: bool = True
    rises: bool = True
    last: float = -math.inf

    def update(self, column: Any) -> None:
        """Add the training rows of a piece of the column.

        Raises:
            CellError: for a text in a column of numbers, or in one that has been taken for such.
        """
        self.rows += len(column)
        if self.kind != "category" and self.is_numeric:
            self._meet_numbers(column)
        if self.kind != "number" and self.is_counted:
            indices, values = texts(column, self.missing)
            met = np.bincount(indices[indices >= 0], minlength=len(values))
            self.counts.update(dict(zip(values, met.tolist(), strict=True)))
            if self.kind is None and len(self.counts) > (_OPEN if self.is_numeric else _TOO_MANY):
                self.is_counted = False
                self.counts.clear()

    def _meet_numbers(self, column: Any) -> None:
        try:
            found = numbers(column, self.missing)
        except CellError as error:
            if self.kind is None and self.is_counted:
                self.is_numeric = False
                return
            if self.kind is None:
                raise CellError(
                    f"{error} in a column that held only numbers before. Declare it as categorical, or name what "
                    "stands for a missing value in `missing_values`",
                    error.row,
                ) from error
            raise
        found = found[~np.isnan(found)]
        self.is_integer &= bool((found == np.floor(found)).all())
        self.rises &= bool((np.diff(found, prepend=self.last) > 0).all())
        self.last = found[-1] if len(found) else self.last
        self.moments.add(logarithmic(found) if self.log1p else found)

    def guess(self) -> tuple[Kind | None, str]:
        """Return the kind of feature that a column looks like, or None for one to leave out; and why."""
        if self.is_numeric and not self.moments.count:
            return None, "empty"
        if self.is_numeric:
            few = self.is_counted and len(self.counts) <= FEW
            if self.is_integer and self.rises and self.rows > 5 * FEW:
                return None, "rises from row to row, as row numbers do"
            if self.is_integer and few:
                return "category", f"{len(self.counts)} different integers"
            return "number", "integers" if self.is_integer else "numbers"
        if not self.is_counted or (len(self.counts) > self.rows / 2 and self.rows > 5 * FEW):
            return None, "text that seldom repeats"
        return "category", f"{len(self.counts)} different texts"

    def guess_target(self) -> Literal["number", "classes"]:
        """Return the kind of target that a column looks like."""
        if not self.is_numeric or (self.is_counted and len(self.counts) <= 2):
            return "classes"
        return "classes" if self.is_integer and self.is_counted and len(self.counts) <= FEW else "number"


def logarithmic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sign(x) log(1 + abs(x))."""
    return np.sign(values) * np.log1p(np.abs(values))
