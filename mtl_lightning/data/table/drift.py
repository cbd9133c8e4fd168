"""What rows hold that the training rows did not: values never met, numbers far outside, more missing cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from mtl_lightning.data.table.columns import listed
from mtl_lightning.types import ConfigurationError, MtlLightningWarning

_BEYOND = 0.1  # of the width of the training rows' range, beyond which a number is far outside of it
_ERRORS = 3  # standard errors of a share of missing cells that are no chance
_SHOWN = 3  # values that are quoted
_MOST = 12  # columns that are listed
_NEW, _MISSING = range(2)


class Strange(NamedTuple):
    """A column with cells unlike those of training: the share of all rows, and the same in words."""

    column: str
    share: float
    words: str


class Drift:
    """Counts, while rows are encoded, the cells of each column that training never saw.

    These are categories that were not met in training (or too seldom, see ``min_count``), numbers that lie outside of
    the training rows' range by more than a tenth of its width, and missing cells, those of targets too, beyond their
    share in training by more than chance would have it. Counts are in memory that is shared with worker processes, each
    of which has its own place there.

    Args:
        schema: as of :meth:`TableFitter.finish`. Of one that does not know ranges, or how many cells were missing, as
            of version 0.1, these are not counted.
        workers: the largest number of processes that encode rows beside this one.
    """

    def __init__(self, schema: Mapping[str, Any], workers: int = 0) -> None:
        self._numeric, self._categorical = list(schema["numeric"]), list(schema["categorical"])
        ranges: Mapping[str, Sequence[float]] = schema.get("ranges", {})
        self._bounds = {name: _widened(*ranges[name]) for name in self._numeric if name in ranges}
        self._ranges = ranges
        features = (*self._numeric, *self._categorical)
        targets = dict.fromkeys(target["column"] for target in schema["targets"].values())
        self._targets = [name for name in targets if name not in features]
        absent, names = schema.get("missing"), (*features, *self._targets)
        self._usual = {} if absent is None else {name: absent.get(name, 0) / schema["rows"] for name in names}
        columns = len(names)
        # per process its rows, and per column the new and the missing cells
        with torch.inference_mode(False):  # it is made during a prediction, and outlives that
            self._rows = torch.zeros(workers + 1, dtype=torch.int64)
            self._cells = torch.zeros(workers + 1, columns, 2, dtype=torch.int64)
        for counts in (self._rows, self._cells) if workers else ():
            counts.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._examples: dict[str, list[str]] = {}  # of this process

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
            shown = self._examples.setdefault(name, [])
            if len(shown) < _SHOWN:
                found = dict.fromkeys([*shown, *(values[index] for index in np.unique(indices[new])[:_SHOWN].tolist())])
                shown[:] = list(found)[:_SHOWN]

    def labels(self, name: str, missing: NDArray[np.bool_]) -> None:
        """Count which cells (N,) of a target's column are missing, if it is no feature as well."""
        if name in self._targets:
            place = len(self._numeric) + len(self._categorical) + self._targets.index(name)
            self._cells[self._place(), place, _MISSING] += int(missing.sum())

    def reset(self) -> None:
        """Begin anew."""
        self._rows.zero_()
        self._cells.zero_()

    def found(self) -> list[Strange]:
        """Return the columns with cells unlike those of training, the most of them first."""
        rows = max(self.rows, 1)
        strange: list[Strange] = []
        names = [*self._numeric, *self._categorical, *self._targets]
        for place, (name, (new, missing)) in enumerate(zip(names, self._cells.sum(0).tolist(), strict=True)):
            if new:
                how = self._outside(name) if place < len(self._numeric) else self._unmet(name)
                strange.append(Strange(name, new / rows, f"{_percent(new / rows)} {how}"))
            usual = self._usual.get(name, 1.0)
            if (more := missing / rows - usual) > _ERRORS * (max(usual * (1 - usual), 1 / rows) / rows) ** 0.5:
                how = f"are missing, {_percent(usual)} of the training rows"
                strange.append(Strange(name, more, f"{_percent(missing / rows)} {how}"))
        return sorted(strange, key=lambda one: -one.share)

    def _outside(self, name: str) -> str:
        low, high = self._ranges[name]
        return f"are far outside of {low:g} .. {high:g}, the range in training"

    def _unmet(self, name: str) -> str:
        examples = self._examples.get(name, [])
        shown = ", ".join(repr(value if len(value) <= 40 else f"{value[:37]}...") for value in examples)
        return "were not met in training" + (f", such as {shown}" if shown else "")

    def _place(self) -> int:
        info = get_worker_info()
        return 0 if info is None else (1 + info.id) % len(self._rows)


class Drifts:
    """What was counted of the rows that are tested, and of those that are predicted.

    Args:
        share: of a column's rows, above which there is a warning; None counts nothing.
        owner: whose rows they are.
        workers: as of :class:`Drift`.
        streamed: whether rows are encoded anew in each pass, and by several processes in parts.

    Raises:
        ConfigurationError: for a share that is none.
    """

    def __init__(self, share: float | None, owner: str, workers: int, *, streamed: bool) -> None:
        if share is not None and not 0 <= share <= 1:
            raise ConfigurationError(f"`unseen_share`: expected a share from 0 to 1, or null, found {share}.")
        self._share, self._owner, self._workers, self._streamed = share, owner, workers, streamed
        self._all: dict[str, Drift] = {}

    def of(self, name: str, schema: Mapping[str, Any]) -> Drift | None:
        """Return what counts the rows of this name; None if nothing is to be counted."""
        return None if self._share is None else self._all.setdefault(name, Drift(schema, self._workers))

    def tell(self, name: str) -> None:
        """Print what was counted of the rows of this name; warn of columns with too much of it."""
        if name not in self._all or not self._all[name].rows or self._share is None:
            return
        drift, share = self._all[name], self._share
        several = self._streamed and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        rows = f"{self._owner}: {drift.rows} rows" + (" that the first process read" if several else "")
        strange = drift.found()
        if self._streamed:
            drift.reset()
        if not strange:
            rank_zero_info(f"{rows}, with nothing in them that training never saw.")
            return
        lines = [f"  {one.column}: {one.words}" for one in strange[:_MOST]]
        lines += [f"  and {len(strange) - _MOST} more"] if len(strange) > _MOST else []
        rank_zero_info("\n".join([f"{rows}, of which training never saw the like in", *lines]))
        if above := list(dict.fromkeys(one.column for one in strange if one.share > share)):
            rank_zero_warn(
                f"{self._owner}: expected rows like those of training, found more than {_percent(share)} unlike them "
                f"in the columns {listed(above, _MOST)}. What is predicted from them is a guess: look for another "
                "spelling, unit or source, or train on such rows (`unseen_share` sets the share).",
                category=MtlLightningWarning,
            )


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = _BEYOND * (high - low)
    return low - margin, high + margin


def _percent(share: float) -> str:
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.3g} %"
