"""What may be declared of a column of dates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from mtl_lightning.encoding.kinds.dates import CYCLES, PARTS
from mtl_lightning.encoding.notation import ISO, Notation
from mtl_lightning.names import did_you_mean
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

__all__ = ["DateColumn", "declared_dates"]


@dataclass(frozen=True)
class DateColumn(Ranged):
    """How a column of dates and times is read, and what is made of it.

    ::

        dates:
          bought: {format: "%d.%m.%Y %H:%M", zone: Europe/Berlin}
          returned: {since: bought, parts: [month, day_of_year]}

    Args:
        format: as of ``datetime.strptime``; by default ISO 8601's. Parquet has its own.
        zone: the time zone of times that name none, and of all calendar parts, such as ``Europe/Berlin``; UTC by
            default. An hour that a clock passes twice is the first; one that it skips is the hour after.
        parts: categories ``year``, ``quarter``, ``month``, ``week``, ``day``, ``weekday`` (from Monday) and ``hour``,
            and cycles, given as sine and cosine, ``time_of_day``, ``time_of_week`` and ``day_of_year``. By default
            ``weekday`` and those cycles in which training rows differ (:func:`usual_parts`).
        since: another column of dates; the time from it to this one becomes a feature too.

    Raises:
        ConfigurationError: for an unknown zone or part.
    """

    format: str | None = None
    zone: str | None = None
    parts: list[str] | None = None
    since: str | None = None

    def __post_init__(self) -> None:
        known = ["year", *PARTS, *CYCLES]
        for part in self.parts or ():
            if part not in known:
                raise ConfigurationError(
                    f"`parts`: expected some of {known}, found {part!r}.{did_you_mean(part, known)}"
                )
        try:
            ZoneInfo(self.zone or "UTC")
        except (KeyError, ValueError, OSError) as error:
            raise ConfigurationError(
                f"`zone`: expected a time zone such as Europe/Berlin, found {self.zone!r}."
            ) from error

    @property
    def notation(self) -> Notation:
        """How its texts are read."""
        return Notation(dates=self.format or ISO, zone=self.zone or "")


def declared_dates(dates: Sequence[str] | Mapping[str, Any]) -> Sequence[str] | dict[str, str | DateColumn]:
    """Return declared columns of dates, options that are dicts as :class:`DateColumn`."""
    if not isinstance(dates, Mapping):
        return dates
    return {name: DateColumn(**one) if isinstance(one, Mapping) else one for name, one in dates.items()}
