"""The split of each row of a table that is met a slice at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.data.seeding import mixed_seed
from mtl_lightning.data.streaming.source import Slice
from mtl_lightning.data.table.split import NONE, TableSplit
from mtl_lightning.encoding.cells import texts
from mtl_lightning.types import ConfigurationError

_BITS = 53  # of a drawn number: as many as a float64 holds


class StreamSplit:
    """A :class:`~mtl_lightning.data.TableSplit` that needs no other row to know the split of a row.

    A column that names the split, and ``bounds`` of time, mean the same as for a table in memory. By chance, a row is
    in the split that a hash of (seed, its number in the table) falls into; with ``group``, of (seed, the group's
    value), and a row without one stands alone. The shares are therefore met nearly, not to a row: of N rows (groups),
    a share p differs by about the square root of p (1 - p) / N; and they are other rows than in memory. To hash a
    group takes about 2 microseconds, in every epoch, for each of its slices.

    Args:
        split: how the rows are divided.
        seed: of the chance.
        missing: spellings of missing values.
        elsewhere: whether training, validation and test have files of their own; rows here that would be in such a
            split are in none.

    Raises:
        ConfigurationError: for ``stratify``, and for ``time`` without ``bounds``, which take all rows to know one.
    """

    def __init__(
        self,
        split: TableSplit,
        seed: int,
        missing: Sequence[str] = (),
        elsewhere: Sequence[bool] = (False, False, False),
    ) -> None:
        if split.stratify is not None:
            raise ConfigurationError(
                f"A streamed table is divided row by row, found `stratify: {split.stratify}`, which takes all rows at "
                "once. Leave it out: by chance, the shares of every value are nearly the same in all splits."
            )
        if split.time is not None and split.bounds is None:
            raise ConfigurationError(
                f"A streamed table is divided row by row, found `time: {split.time}` without `bounds`, which takes all "
                "rows to be sorted. Give as `bounds` the times at which validation and test begin."
            )
        self.split, self.seed, self.missing, self.elsewhere = split, seed, tuple(missing), tuple(elsewhere)
        self._ends = np.cumsum(split.fractions)[:2]

    @property
    def columns(self) -> list[str]:
        """The columns that it looks at."""
        return self.split.columns

    def settings(self) -> dict[str, Any]:
        """Return what the split of a row depends on, as plain data."""
        return {**asdict(self.split), "seed": self.seed, "missing": self.missing, "elsewhere": self.elsewhere}

    def __call__(self, table: Any, part: Slice) -> NDArray[np.int8]:
        """Return the split of each row (N,) of a slice: 0 training, 1 validation, 2 test, -1 none.

        Raises:
            CellError: for a time that is none, or another name of a split.
        """
        found = self._found(table, part)
        return np.where(np.array([*self.elsewhere, False])[found], NONE, found).astype(np.int8)

    def _found(self, table: Any, part: Slice) -> NDArray[np.int8]:
        if self.split.column is not None or self.split.time is not None:
            return self.split.assign(table, self.seed, self.missing)
        alone = _hashed(np.arange(part.first, part.first + part.rows), mixed_seed(self.seed, "rows"))
        if self.split.group is None:
            return self._falls(alone)
        indices, values = texts(table.column(self.split.group), self.missing)
        drawn = np.array([*(_unit(np.uint64(mixed_seed(self.seed, "groups", value) * 2)) for value in values), 0.0])
        return self._falls(np.where(indices < 0, alone, drawn[indices]))

    def _falls(self, drawn: NDArray[np.float64]) -> NDArray[np.int8]:
        return np.searchsorted(self._ends, drawn, side="right").astype(np.int8)


def _hashed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1), (N,), that are a function of each number and the seed alone and look random.

    SplitMix64's output function: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
    https://doi.org/10.1145/2660193.2660195.
    """
    state = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    drawn: NDArray[np.float64] = _unit(state ^ (state >> np.uint64(31)))
    return drawn


def _unit(bits: Any) -> Any:
    """Turn 64 random bits into a number in [0, 1)."""
    return (bits >> np.uint64(64 - _BITS)) / 2.0**_BITS


class InSplit:
    """Picks the rows of one split, by its number; it can be pickled.

    Args:
        of: says the split of each row.
        split: 0 training, 1 validation, 2 test.
    """

    def __init__(self, of: StreamSplit, split: int) -> None:
        self.of, self.split = of, split

    def __call__(self, table: Any, part: Slice) -> NDArray[np.bool_]:
        """Return which rows (N,) of a slice are in the split."""
        chosen: NDArray[np.bool_] = self.of(table, part) == self.split
        return chosen
