"""What rows hold that the training rows did not: values never met, numbers far outside, more missing cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from mtl_lightning.encoding.kinds import Cells, kinds_of

_BEYOND = 0.1  # of the width of the training rows' range, beyond which a number is far outside of it
_ERRORS = 3  # standard errors of a share of missing cells that are no chance
_SHOWN = 3  # values that are quoted
_LOOKED_AT = 20  # rows, for those
_NEW, _MISSING, _CUT = range(3)
COUNTS = 3  # of a column: these


class Strange(NamedTuple):
    """A column with cells unlike those of training: the share of all rows, the same in words, the cells and their kind.

    ``kind`` is ``"unseen"`` for categories, ``"outside"`` for numbers, ``"missing"`` for more gaps than in training,
    ``"cut"`` for what is only encoded in part.
    """

    column: str
    share: float
    words: str
    cells: int = 0
    kind: str = ""


class DriftCounts:
    """Counts, while rows are encoded, the cells of each column that training never saw.

    These are categories that were not met in training (or too seldom, see ``min_count``), numbers that lie outside of
    the training rows' range by more than a tenth of its width, and missing cells, those of targets too, beyond their
    share in training by more than chance would have it. Columns of other kinds say themselves what is new
    (:class:`~mtl_lightning.encoding.kinds.Cells`); one with several features is told of once.

    Args:
        schema: as of :meth:`~mtl_lightning.data.TableFitter.finish`. Of one that does not know ranges, or how many
            cells were missing, as of version 0.1, these are not counted.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._numeric, self._categorical = list(schema["numeric"]), list(schema["categorical"])
        ranges: Mapping[str, Sequence[float]] = schema.get("ranges", {})
        self._bounds = {name: _widened(*ranges[name]) for name in self._numeric if name in ranges}
        self._ranges = ranges
        features = (*self._numeric, *self._categorical)
        targets = dict.fromkeys(target["column"] for target in schema["targets"].values())
        self._kinds = [*kinds_of(schema).values()]
        sources = [kind.columns[0] for kind in self._kinds]
        self._gaps = [name not in (*features, *sources[:place]) for place, name in enumerate(sources)]
        self._targets = [name for name in targets if name not in (*features, *sources)]
        self._dates = {name for name, read in schema.get("reads", {}).items() if read.get("dates")}
        self._names = [*features, *self._targets, *sources]
        absent, names = schema.get("missing"), self._names
        self._usual = {} if absent is None else {name: absent.get(name, 0) / schema["rows"] for name in names}
        self._rows, self._cells = self._counters(len(names))
        self._examples: dict[str, list[str]] = {}  # of this process

    def _counters(self, columns: int) -> tuple[Any, Any]:
        """Return zeros: for each process its rows (P,); and its new, its missing and its cut cells (P, columns, 3)."""
        return np.zeros(1, dtype=np.int64), np.zeros((1, columns, COUNTS), dtype=np.int64)

    def _place(self) -> int:
        """Return the number of this process among those that count."""
        return 0

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return int(self._rows.sum())

    def begin(self, rows: int) -> None:
        """Count rows, whose cells follow."""
        self._rows[self._place()] += rows

    def numbers(self, place: int, name: str, cells: NDArray[np.float64]) -> None:
        """Count cells (N,) of the numeric column that is in this place, nan where one is missing."""
        counts = self._cells[self._place(), place]
        counts[_MISSING] += int(np.isnan(cells).sum())
        if name in self._bounds:
            low, high = self._bounds[name]
            counts[_NEW] += int(((cells < low) | (cells > high)).sum())

    def categories(
        self, place: int, name: str, codes: NDArray[np.int64], indices: NDArray[np.int64], values: Sequence[str]
    ) -> None:
        """Count cells (N,) of the categorical column that is in this place, by their codes and by their values."""
        counts = self._cells[self._place(), len(self._numeric) + place]
        counts[_MISSING] += int((indices < 0).sum())
        new = (codes == 0) & (indices >= 0)
        if number := int(new.sum()):
            counts[_NEW] += number
            self.show(name, [values[index] for index in np.unique(indices[new])[:_SHOWN].tolist()])

    def cells(self, place: int, cells: Cells, counted: Any = slice(None)) -> None:
        """Count those of the cells (N,) that are ``counted``, of the feature of another kind that is in this place."""
        kind = self._kinds[place]
        counts = self._cells[self._place(), len(self._names) - len(self._kinds) + place]
        if self._gaps[place]:
            counts[_MISSING] += int(cells.missing[counted].sum())
        if cells.cut is not None:
            counts[_CUT] += int(cells.cut[counted].sum())
        if cells.new is None or not cells.new.any():
            return
        rows = np.arange(len(cells.new))[counted]
        rows = rows[cells.new[rows]]
        counts[_NEW] += len(rows)
        if cells.examples is not None and len(self._examples.get(kind.columns[0], ())) < _SHOWN:
            self.show(kind.columns[0], cells.examples(rows[:_LOOKED_AT]))

    def show(self, name: str, values: Sequence[str]) -> None:
        """Note values that were not met in training, a few of which are told."""
        shown = self._examples.setdefault(name, [])
        if len(shown) < _SHOWN:
            shown[:] = list(dict.fromkeys([*shown, *values]))[:_SHOWN]

    def add(self, first: int, new: NDArray[np.int64], missing: NDArray[np.int64]) -> None:
        """Count new and missing cells (C,) of C columns from the ``first`` on, of all of which numbers come first."""
        cells = self._cells[self._place(), first : first + len(new)]
        cells[:, _NEW] += new
        cells[:, _MISSING] += missing

    def bounds(self, low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return between what numbers of each numeric column (Dn,) are not far outside; ``low`` and ``high`` where
        that is not known.
        """
        found = [self._bounds.get(name, (low, high)) for name in self._numeric]
        return np.array([one[0] for one in found]), np.array([one[1] for one in found])

    def any(self) -> bool:
        """Whether there is anything that :meth:`found` might tell; gaps in so few rows are always chance."""
        return bool(self._cells[..., [_NEW, _CUT]].any()) or (self.rows > _ERRORS and bool(self._cells.any()))

    def afresh(self) -> Self:
        """Return one that has counted nothing yet."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._rows, other._cells = self._counters(self._cells.shape[1])
        other._examples = {}
        return other

    def labels(self, name: str, missing: NDArray[np.bool_]) -> None:
        """Count which cells (N,) of a target's column are missing, if it is no feature as well."""
        if name in self._targets:
            place = len(self._numeric) + len(self._categorical) + self._targets.index(name)
            self._cells[self._place(), place, _MISSING] += int(missing.sum())

    def reset(self) -> None:
        """Begin anew."""
        self._rows[:] = 0
        self._cells[:] = 0

    def found(self) -> list[Strange]:
        """Return the columns with cells unlike those of training, the most of them first."""
        if not self.any():
            return []
        rows = max(self.rows, 1)
        strange: list[Strange] = []
        first = len(self._names) - len(self._kinds)
        for place, (name, counts) in enumerate(zip(self._names, self._cells.sum(0).tolist(), strict=True)):
            new, missing, cut = counts
            other = self._kinds[place - first] if place >= first else None
            if new:
                kind = "outside" if place < len(self._numeric) else "unseen" if other is None else other.strange
                words = "were not met in training" if other is None else other.words()
                how = self._outside(name) if place < len(self._numeric) else self._unmet(name, words)
                strange.append(Strange(name, new / rows, f"{percent(new / rows)} {how}", new, kind))
            if cut and other is not None:
                strange.append(Strange(name, cut / rows, f"{percent(cut / rows)} {other.cut_words()}", cut, "cut"))
            usual = self._usual.get(name, 1.0)
            if (more := missing / rows - usual) > _ERRORS * (max(usual * (1 - usual), 1 / rows) / rows) ** 0.5:
                how = f"are missing, {percent(usual)} of the training rows"
                strange.append(Strange(name, more, f"{percent(missing / rows)} {how}", missing, "missing"))
        return sorted(strange, key=lambda one: -one.share)

    def _outside(self, name: str) -> str:
        low, high = (_as_date(number) if name in self._dates else f"{number:g}" for number in self._ranges[name])
        return f"are far outside of {low} .. {high}, the range in training"

    def _unmet(self, name: str, words: str) -> str:
        examples = self._examples.get(name, [])
        shown = ", ".join(repr(value if len(value) <= 40 else f"{value[:37]}...") for value in examples)
        return words + (f", such as {shown}" if shown else "")


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = _BEYOND * (high - low)
    return low - margin, high + margin


def _as_date(seconds: float) -> str:
    """Return seconds since 1970 as a date, of years that dates have."""
    try:
        return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat(" ", "minutes").removesuffix(" 00:00")
    except OverflowError:
        return f"{seconds:g}"


def percent(share: float) -> str:
    """Return a share in words."""
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.3g} %"
