"""Dates and times as parts of the calendar, as positions in its cycles, and as the time since another date."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtl_lightning.encoding.kinds.base import Cells
from mtl_lightning.encoding.kinds.of_number import OfNumber
from mtl_lightning.errors import DataError

__all__ = ["CYCLES", "PARTS", "Calendar", "Cycles", "Since", "local_times"]

_FIRST, _LAST = -62_135_510_400, 253_402_214_400  # the years 1 to 9999 but for a day, in seconds since 1970
_DAY = 86_400.0
_QUARTER = 15 * 60  # of an hour, in seconds


class Part(NamedTuple):
    """A part of the calendar: how many values it has, and which of them, from 0, each time has."""

    size: int
    of: Callable[[Any], Any]


PARTS: dict[str, Part] = {
    "quarter": Part(4, lambda times: pc.subtract(pc.quarter(times), 1)),
    "month": Part(12, lambda times: pc.subtract(pc.month(times), 1)),
    "week": Part(53, lambda times: pc.subtract(pc.iso_week(times), 1)),
    "day": Part(31, lambda times: pc.subtract(pc.day(times), 1)),
    "weekday": Part(7, pc.day_of_week),
    "hour": Part(24, pc.hour),
}
"""Parts that become categories; beside them ``year``, whose values are those of training. Weeks are ISO 8601's, and
weekdays begin with Monday."""
CYCLES: dict[str, Callable[[Any], NDArray[np.float64]]] = {
    "time_of_day": lambda times: _seconds_of_day(times) / _DAY,
    "time_of_week": lambda times: (_array(pc.day_of_week(times)) + _seconds_of_day(times) / _DAY) / 7,
    "day_of_year": lambda times: (_array(pc.day_of_year(times)) - 1) / (365.0 + _array(pc.is_leap_year(times))),
}
"""Positions in a cycle, from 0 to 1, that become a sine and a cosine."""


class _OfDates(OfNumber):
    """Reads a column of dates in a time zone.

    Args:
        feature: see :class:`OfNumber`.
        known: with ``parts``, and with ``zone``, the one in which the calendar is read; UTC where there is none.
        missing: see there.
    """

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self.zone: str = known.get("zone") or "UTC"
        self.parts: list[str] = list(known["parts"])

    def _times(self, column: Any) -> Any:
        return local_times(self._numbers(column, self.columns[0]), self.zone)

    def told(self) -> str:
        """Say which parts."""
        return f"{', '.join(self.parts)} of {self.columns[0]}{'' if self.zone == 'UTC' else f' in {self.zone}'}"


class Calendar(_OfDates):
    """Parts of the calendar as codes 1, 2, ...; 0 where the date is missing, or its year is none of training's.

    Args:
        feature: see :class:`_OfDates`.
        known: with ``parts``, of :data:`PARTS` and ``year``, and with ``years``, the first and the last of training.
        missing: see there.
    """

    kind = "calendar"
    block = "categorical"

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        first, last = known.get("years", (0, 0))
        self._first, years = int(first), int(last) - int(first) + 1
        sizes = {part: years if part == "year" else PARTS[part].size for part in self.parts}
        self.names = tuple(f"{self.columns[0]}.{part}" for part in self.parts)
        self.codes = {name: size + 1 for name, size in zip(self.names, sizes.values(), strict=True)}
        self._sizes = sizes
        self.check()

    def encode(self, *columns: Any) -> Cells:
        """Encode a column of dates."""
        times = self._times(columns[0])
        codes = np.zeros((len(times), len(self.parts)), dtype=np.int64)
        for place, (part, size) in enumerate(self._sizes.items()):
            found = pc.subtract(pc.year(times), self._first) if part == "year" else PARTS[part].of(times)
            code = pc.fill_null(found, -1).to_numpy(zero_copy_only=False) + 1
            codes[:, place] = np.where((code >= 1) & (code <= size), code, 0)
        return Cells(codes, np.zeros(len(times), dtype=np.bool_))


class Cycles(_OfDates):
    """Sine and cosine of the position in each cycle; nan where the date is missing.

    Args:
        feature: see :class:`_OfDates`.
        known: with ``parts``, of :data:`CYCLES`.
        missing: see there.
    """

    kind = "cycles"
    block = "numeric"

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self.names = tuple(f"{self.columns[0]}.{part}_{wave}" for part in self.parts for wave in ("sin", "cos"))
        if unknown := [part for part in self.parts if part not in CYCLES]:
            raise DataError(f"Feature {feature!r} of the schema: expected cycles among {[*CYCLES]}, found {unknown}.")

    def encode(self, *columns: Any) -> Cells:
        """Encode a column of dates."""
        times = self._times(columns[0])
        turns = [2 * np.pi * CYCLES[part](times) for part in self.parts]
        waves = [wave(turn) for turn in turns for wave in (np.sin, np.cos)]
        return Cells(np.stack(waves, 1).astype(np.float32), np.zeros(len(times), dtype=np.bool_))


class Since(OfNumber):
    """The time from another date to this one, standardised; nan where either is missing.

    Args:
        feature: see :class:`OfNumber`.
        known: with ``since``, the column of the other date, and with ``mean`` and ``std``, in seconds.
        missing: see there.
    """

    kind = "since"
    block = "numeric"

    def __init__(self, feature: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> None:
        super().__init__(feature, known, missing)
        self.columns = (known["column"], known["since"])
        self._mean, self._std = float(known["mean"]), float(known["std"])

    def seconds(self, *columns: Any) -> NDArray[np.float64]:
        """Return the times between two columns of dates (N,), in seconds."""
        here, there = (self._numbers(column, name) for column, name in zip(columns, self.columns, strict=True))
        return here - there

    def encode(self, *columns: Any) -> Cells:
        """Encode two columns of dates."""
        found = (self.seconds(*columns) - self._mean) / self._std
        return Cells(found.astype(np.float32)[:, None], np.zeros(len(found), dtype=np.bool_))

    def told(self) -> str:
        """Say since when."""
        return f"time from {self.columns[1]} to {self.columns[0]}"


def local_times(seconds: NDArray[np.float64], zone: str) -> Any:
    """Return seconds since 1970 (N,) as Arrow's times, as the clocks of a time zone show them; null for nan and years
    beyond 1 to 9999.
    """
    known = (seconds > _FIRST) & (seconds < _LAST)
    micros = np.round(np.where(known, seconds, 0.0) * 1e6).astype(np.int64)
    if zone != "UTC":
        micros += _offsets(micros // 1_000_000, ZoneInfo(zone)) * 1_000_000
    return pa.array(micros, pa.timestamp("us"), mask=~known)


def _offsets(seconds: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """Return by how many seconds a zone is ahead of UTC at times (N,), in seconds since 1970.

    By Python's rules: Arrow knows none after 2037. Each quarter of an hour is looked up once; in those in which clocks
    were changed, each time.
    """
    quarters, places = np.unique(seconds // _QUARTER, return_inverse=True)
    start, end = (np.array([_offset(int(n) * _QUARTER + at, zone) for n in quarters]) for at in (0, _QUARTER - 1))
    found: NDArray[np.int64] = start.astype(np.int64)[places]
    for place in np.flatnonzero((start != end)[places]).tolist():
        found[place] = _offset(int(seconds[place]), zone)
    return found


def _offset(seconds: int, zone: ZoneInfo) -> int:
    time = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    return round((time.astimezone(zone).utcoffset() or timedelta()).total_seconds())


def _array(column: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _seconds_of_day(times: Any) -> NDArray[np.float64]:
    return 3600 * _array(pc.hour(times)) + 60 * _array(pc.minute(times)) + _array(pc.second(times))
