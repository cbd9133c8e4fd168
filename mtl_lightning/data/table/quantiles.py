"""Bounds between equal shares of a column's numbers, of a sample that is the same however rows are cut into pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SHARES = 64
"""Into how many equal shares the numbers of a column are divided, at most."""
_KEPT = 16_384  # numbers; of a column with more, those whose places have the smallest hashes
_WAITING = 2 * _KEPT  # numbers that come together before the largest hashes are dropped


@dataclass
class Sample:
    """Some of the numbers of a column that come a piece at a time: all of the first 16,384; of more, those whose places
    among the column's numbers have the smallest hashes.
    """

    met: int = 0
    _numbers: list[NDArray[np.float64]] = field(default_factory=list)
    _hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    _kept: int = 0
    _below: int = 1 << 64  # the hash from which on numbers are not taken

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Add numbers (N,), none of them nan."""
        taken, hashes = _taken(self.met, len(numbers), self._below)
        self.met += len(numbers)
        self._hashes.append(hashes)
        self._numbers.append(numbers[taken])
        self._kept += len(hashes)
        if self._kept > _KEPT + _WAITING:
            self._drop()

    def _drop(self) -> None:
        """Keep the numbers with the smallest hashes, in the order in which they were met."""
        hashes, numbers = np.concatenate(self._hashes), np.concatenate(self._numbers)
        if len(numbers) > _KEPT:
            kept = np.sort(np.argpartition(hashes, _KEPT - 1)[:_KEPT])
            hashes, numbers = hashes[kept], numbers[kept]
            self._below = int(hashes.max()) + 1
        self._hashes, self._numbers, self._kept = [hashes], [numbers], len(numbers)

    def finish(self) -> NDArray[np.float64]:
        """Return the numbers (n,), rising."""
        if not self._numbers:
            return np.empty(0)
        self._drop()
        return np.sort(self._numbers[0])


@lru_cache(maxsize=4)  # columns without gaps ask for the same
def _taken(start: int, number: int, below: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return which of so many places from ``start`` on have a hash that is low enough, and their hashes."""
    hashes = _hashes(start, number)
    taken = np.flatnonzero(hashes < np.uint64(below)) if below < 1 << 64 else np.arange(number)
    return taken, hashes[taken]


def _hashes(start: int, number: int) -> NDArray[np.uint64]:
    """Return hashes (N,) of places from ``start`` on, one to one and as good as chance.

    The finaliser of MurmurHash3 in Stafford's variant 13, as of SplitMix64 (Steele et al. 2014, "Fast splittable
    pseudorandom number generators", https://doi.org/10.1145/2660193.2660195).
    """
    with np.errstate(over="ignore"):
        places = (np.arange(start, start + number, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        places = (places ^ (places >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        places = (places ^ (places >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found: NDArray[np.uint64] = places ^ (places >> np.uint64(31))
    return found


def bounds(numbers: NDArray[np.float64], shares: int = SHARES) -> NDArray[np.float64]:
    """Return rising bounds (at most ``shares`` - 1) between equal shares of numbers, each the smallest of its share.

    Where there are no more different numbers than shares, each of them is a share of its own. No share is empty: a
    number is in the share of the last bound that is not above it, or in the first share.

    Args:
        numbers: (n,), rising.
        shares: how many.
    """
    if not len(numbers):
        return np.empty(0)
    different = np.unique(numbers)
    if len(different) <= shares:
        return different[1:]
    found = np.unique(numbers[np.arange(1, shares) * len(numbers) // shares])
    above: NDArray[np.float64] = found[found > numbers[0]]
    return above
