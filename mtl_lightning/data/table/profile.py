"""What is learned of one column from its training rows, a piece of the table at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mtl_lightning.data.table.readings import Locate, Reading, Readings
from mtl_lightning.encoding.cells import CellError, texts
from mtl_lightning.encoding.notation import BOOLS, USUAL, Notation

Kind = Literal["number", "category"]

FEW = 20  # integers with at most as many different values may be categories
_OPEN = 1_000  # different numbers that are remembered until it is known that the column is one of numbers
_TOO_MANY = 100_000  # different texts in a column of unknown kind; more are no categories to learn
_ODD = 0.05  # the share of other cells up to which a column of few integers counts as one of numbers


@dataclass
class Profile:
    """Follows one column.

    Args:
        kind: what the column is to be read as; None to find it out, which takes both and keeps either.
        missing: what stands for a missing value.
        log1p: follow the moments of sign(x) log(1 + abs(x)).
        notations: how its texts may spell numbers.
    """

    kind: Kind | None
    missing: Collection[str] = ()
    log1p: bool = False
    notations: Sequence[Notation] = USUAL
    counts: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    absent: int = 0
    is_counted: bool = True
    is_readable: bool = True  # as numbers, by its type

    def __post_init__(self) -> None:
        self.readings = Readings(self.notations, self.missing, self.log1p)

    def update(self, column: Any, locate: Locate) -> None:
        """Add the training rows of a piece of the column.

        Raises:
            CellError: for a type that can be neither numbers nor text.
        """
        self.rows += len(column)
        pair, absent = None, None
        if self.kind != "category" and self.is_readable:
            try:
                absent, pair = self.readings.update(column, locate)
            except CellError:
                if self.kind == "number":
                    raise
                self.is_readable = False
        if self.kind != "number" and (self.is_counted or absent is None):
            indices, values = pair or texts(column, self.missing)
            absent = int((indices < 0).sum())
            self._count(indices, values)
        self.absent += absent or 0

    def _count(self, indices: Any, values: Sequence[str]) -> None:
        if not self.is_counted:
            return
        met = np.bincount(indices[indices >= 0], minlength=len(values)).tolist()
        self.counts.update(dict(zip(values, met, strict=True)))
        best = self.readings.best
        numeric = self.is_readable and best.parsed > best.strangers.total
        if self.kind is None and len(self.counts) > (_OPEN if numeric else _TOO_MANY):
            self.is_counted = False
            self.counts.clear()

    @property
    def present(self) -> int:
        """How many cells are not missing."""
        return self.rows - self.absent

    @property
    def reading(self) -> Reading:
        """The column as numbers, in the notation that reads the most of its cells."""
        return self.readings.best

    @property
    def is_number(self) -> bool:
        """Whether every cell is a number, in one notation and one unit."""
        return self.is_readable and self.reading.agrees and not self.readings.is_ambiguous

    @property
    def is_spoiled(self) -> bool:
        """Whether the column would be one of numbers but for some of its cells, or for how these are to be read."""
        reading = self.reading
        if self.kind == "category" or not self.is_readable or self.is_number or not reading.parsed:
            return False
        if self.kind == "number" or (not self.is_counted and reading.parsed >= self.present / 2):
            return True
        if reading.parsed <= self.present / 2:
            return False
        few = reading.is_integer and self.distinct <= FEW
        return not few or reading.strangers.total <= _ODD * self.present

    @property
    def distinct(self) -> int:
        """The number of different numbers, counted as far as they are remembered."""
        if not self.is_counted:
            return _OPEN + 1
        found = {self.reading.notation.parse(text)[0] for text in self.counts}
        return len({number for number in found if abs(number) != float("inf")})

    @property
    def are_bools(self) -> bool:
        """Whether the texts are true and false, in letters of any case."""
        return bool(self.counts) and {text.lower() for text in self.counts} <= {"true", "false"}

    @property
    def notation(self) -> Notation | None:
        """How the cells are to be read where that is not as they stand; None for plain numbers and texts."""
        if self.kind == "category" or not self.is_number:
            return BOOLS if self.are_bools else None
        return None if self.reading.notation.is_plain else self.reading.notation

    def categories(self) -> Counter[str]:
        """Return how often each value was met, bools in small letters."""
        if not self.are_bools:
            return self.counts
        merged: Counter[str] = Counter()
        for text, count in self.counts.items():
            merged[text.lower()] += count
        return merged
