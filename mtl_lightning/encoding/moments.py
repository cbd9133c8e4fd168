"""Mean and standard deviation of numbers that come a piece at a time, the same however they are cut into pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096  # values that are taken together


@dataclass
class Moments:
    """Number, mean and summed squared deviations of the values met, by the exact rule for two groups together.

    Groups are of a fixed number of values, so that the result depends on the values and their order alone.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    _waiting: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def add(self, values: NDArray[np.float64]) -> None:
        """Add values (N,), none of them nan."""
        values = np.concatenate([self._waiting, values]) if len(self._waiting) else values
        whole = len(values) - len(values) % _BLOCK
        for start in range(0, whole, _BLOCK):
            self._take(values[start : start + _BLOCK])
        self._waiting = values[whole:].copy()

    def _take(self, values: NDArray[np.float64]) -> None:
        count, mean = len(values), float(values.mean())
        squares = float(np.square(values - mean).sum())
        total, apart = self.count + count, mean - self.mean
        self.squares += squares + apart * apart * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    def finish(self) -> Moments:
        """Take in what waits for more, once all values are there."""
        if len(self._waiting):
            self._take(self._waiting)
            self._waiting = np.empty(0)
        return self

    @property
    def std(self) -> float:
        """The standard deviation, dividing by the number of values; 1 for a column that never varies."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-12 * abs(self.mean) else 1.0


def logarithmic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sign(x) log(1 + abs(x))."""
    return np.sign(values) * np.log1p(np.abs(values))
