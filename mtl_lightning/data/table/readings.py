"""The ways in which a column may be read as numbers, followed side by side until one is seen to be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtl_lightning.data.table.quantiles import Sample
from mtl_lightning.encoding.cells import LARGEST, cast, cast_text, is_text, one, spelled_alike, texts
from mtl_lightning.encoding.moments import Moments, logarithmic
from mtl_lightning.encoding.notation import BOOLS, COMMAS, ISO_DATES, PLAIN, Notation

Locate: TypeAlias = Callable[[int], str]
"""Says where a row of a batch is, for people: the file and its row there."""
Texts: TypeAlias = tuple[NDArray[np.int64], list[str]]

SMALL = 10  # integers from 0 that are counted
SHOWN = 5  # cells that an error quotes
_OUTWEIGHS = 0.9999  # the share of the variance that is one cell's
_HOPELESS = 10_000  # cells after which a notation that has read none is given up


@dataclass
class Strangers:
    """Cells that are no numbers: how many, and of the first few how often and where each was met first."""

    total: int = 0
    met: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, text: str, count: int, where: Callable[[], str]) -> None:
        """Note a text, which ``count`` cells of a batch hold."""
        self.total += count
        if text in self.met:
            self.met[text] = (self.met[text][0] + count, self.met[text][1])
        elif len(self.met) < SHOWN:
            self.met[text] = (count, where())


@dataclass
class Reading:
    """What a column looks like when it is read in one notation.

    Args:
        notation: how its texts spell numbers.
        log1p: follow the moments of sign(x) log(1 + abs(x)).
    """

    notation: Notation
    log1p: bool = False
    parsed: int = 0
    moments: Moments = field(default_factory=Moments)
    sample: Sample = field(default_factory=Sample)
    is_integer: bool = True
    small: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SMALL, dtype=np.int64))  # how often 0, 1, ..., 9
    rises: bool = True
    last: float = -np.inf
    lowest: tuple[float, str] = (np.inf, "")  # and where it was met first
    highest: tuple[float, str] = (-np.inf, "")
    marked: int = 0  # cells with a comma
    units: Counter[str] = field(default_factory=Counter)
    strangers: Strangers = field(default_factory=Strangers)

    def add(self, cells: NDArray[np.float64], describe: Callable[[int], str], locate: Locate) -> None:
        """Add cells (N,), nan where one is missing; ``describe`` quotes one that is too large to be a number."""
        for row in np.flatnonzero(np.abs(cells) > LARGEST):
            self.strangers.add(describe(int(row)), 1, lambda row=int(row): locate(row))  # type: ignore[misc]  # a default
        rows = np.flatnonzero(np.abs(cells) <= LARGEST)
        if not len(rows):
            return
        found = cells[rows]
        for place in (found.argmin(), found.argmax()):
            if not self.parsed or not self.lowest[0] <= found[place] <= self.highest[0]:
                extreme = (float(found[place]), locate(int(rows[place])))
                self.lowest, self.highest = min(self.lowest, extreme), max(self.highest, extreme)
        self.parsed += len(found)
        self.is_integer = self.is_integer and bool((found == np.floor(found)).all())
        if self.is_integer:
            self.small = self.small + np.bincount(found[(found >= 0) & (found < SMALL)].astype(int), minlength=SMALL)
        self.rises = self.rises and bool((np.diff(found, prepend=self.last) > 0).all())
        self.last = found[-1]
        self.sample.add(found)
        self.moments.add(logarithmic(found) if self.log1p else found)

    def read(self, indices: NDArray[np.int64], values: Sequence[str], locate: Locate) -> None:
        """Add cells (N,) of text, given by their index among the values, -1 where one is missing."""
        counts = np.bincount(indices[indices >= 0], minlength=len(values)).tolist()
        parsed = np.full(len(values) + 1, np.nan)
        for index, (value, count) in enumerate(zip(values, counts, strict=True)):
            number, unit = self.notation.parse(value)
            if abs(number) > LARGEST:
                self.strangers.add(value, count, lambda index=index: locate(int((indices == index).argmax())))  # type: ignore[misc]  # a default
                continue
            parsed[index] = number
            self.marked += count if "," in value else 0
            if unit:
                self.units[unit] += count
        self.add(parsed[indices], str, locate)

    def fed(self, cells: int) -> None:
        """Note cells that this notation is not for."""
        self.strangers.total += cells

    @property
    def outlier(self) -> tuple[float, str] | None:
        """The one cell, and where it is, beside which all others are as good as equal; None if there is none."""
        moments = self.moments.finish()
        for value, where in (self.lowest, self.highest) if moments.count > 2 else ():
            apart = (logarithmic(np.array(value)) if self.log1p else value) - moments.mean
            if apart * apart * moments.count > _OUTWEIGHS * moments.squares * (moments.count - 1):
                return value, where
        return None

    @property
    def agrees(self) -> bool:
        """Whether every cell is a number of one unit; a currency may be left out, ``%`` may not."""
        alike = len(self.units) <= 1 and self.units["%"] in (0, self.parsed)
        return self.parsed > 0 and not self.strangers.total and alike


class Readings:
    """Follows a column in several notations.

    Only plain numbers are followed until a cell is none; the others then take over what has been met.

    Args:
        notations: those that come into question, the likelier ones first.
        missing: what stands for a missing value.
        log1p: as of :class:`Reading`.
    """

    def __init__(self, notations: Sequence[Notation], missing: Collection[str] = (), log1p: bool = False) -> None:
        self.notations, self.missing, self.log1p = notations, missing, log1p
        first = notations[:1] if notations[0].is_plain else notations
        self.all = {notation: Reading(notation, log1p) for notation in first}
        self.pointed = False  # a plain number with a point was met

    def update(self, column: Any, locate: Locate) -> tuple[int, Texts | None]:
        """Add the cells of a piece of the column.

        Returns:
            How many are missing; and the cells as text, where they had to be looked at as such.

        Raises:
            CellError: for a column of lists and the like.
        """
        array = one(column)
        if not is_text(array):
            return self._typed(array, locate), None
        found = cast_text(array, self.missing) if [*self.all] == [PLAIN] else None
        if found is not None and not (np.abs(found) > LARGEST).any():
            self.pointed = self.pointed or bool(pc.any(pc.match_substring(_values(array), ".")).as_py())
            self.all[PLAIN].add(found, str, locate)
            return int(np.isnan(found).sum()), None
        indices, values = texts(array, self.missing, spelled=False)
        if [*self.all] == [PLAIN]:
            self._branch()
        for reading in list(self.all.values()):
            reading.read(indices, values, locate)
            if not reading.parsed and reading.strangers.total > _HOPELESS and not reading.notation.is_plain:
                del self.all[reading.notation]
        return int((indices < 0).sum()), spelled_alike(indices, values)

    def _typed(self, array: Any, locate: Locate) -> int:
        """Add cells that are stored as numbers, bools or times."""
        kind = array.type
        dates = next((notation for notation in self.notations if notation.dates), ISO_DATES)
        own = BOOLS if pa.types.is_boolean(kind) else dates if pa.types.is_temporal(kind) else PLAIN
        found = cast(array, self.missing, own.zone)
        self.all.setdefault(own, Reading(own, self.log1p))
        for notation, reading in self.all.items():
            if notation is own or (own is PLAIN and not (notation.bools or notation.dates)):
                reading.add(found, lambda row: repr(float(found[row])), locate)
            else:
                reading.fed(int((~np.isnan(found)).sum()))
        return int(np.isnan(found).sum())

    def _branch(self) -> None:
        """Begin to follow the other notations, with the plain numbers met so far."""
        plain = self.all[PLAIN]
        for notation in self.notations:
            if notation in self.all:
                continue
            if not plain.parsed:
                self.all[notation] = Reading(notation, self.log1p, strangers=deepcopy(plain.strangers))
            elif not (notation.bools or notation.dates) and (notation.decimal == "." or not self.pointed):
                self.all[notation] = deepcopy(plain)
                self.all[notation].notation = notation

    @property
    def best(self) -> Reading:
        """The reading with the most numbers, of several the first of ``notations``."""
        rank = {notation: place for place, notation in enumerate(self.notations)}
        return min(self.all.values(), key=lambda r: (-r.parsed, rank.get(r.notation, len(rank))))

    @property
    def is_ambiguous(self) -> bool:
        """Whether a comma may set thousands apart or stand before a fraction, as in a column of 1,234 and its like."""
        best = self.best
        if best.notation != COMMAS or best.strangers.total or best.marked < best.parsed or self.notations[0] == COMMAS:
            return False
        return any(r.notation.decimal == "," and not r.strangers.total for r in self.all.values())


def _values(array: Any) -> Any:
    return array.dictionary if pa.types.is_dictionary(array.type) else array
