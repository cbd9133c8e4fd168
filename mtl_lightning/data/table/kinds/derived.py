"""What is made of numbers and dates beside themselves, once their training rows are known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtl_lightning.data.table.columns import TableColumns, chosen_for
from mtl_lightning.data.table.date_column import DateColumn
from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.profile import Profile
from mtl_lightning.data.table.quantiles import bounds
from mtl_lightning.data.table.readings import Locate
from mtl_lightning.encoding.kinds.dates import CYCLES, PARTS, Since, local_times
from mtl_lightning.encoding.moments import Moments
from mtl_lightning.encoding.notation import Notation
from mtl_lightning.types import ConfigurationError, DataError

__all__ = ["SinceFitter", "derived_features", "since_fitters", "usual_parts"]

_YEAR = 300 * 86_400.0  # seconds


class SinceFitter(KindFitter):
    """Follows the time between two columns of dates.

    Args:
        feature: as of :class:`KindFitter`.
        column: the later date.
        other: the column of the date before.
        missing: as of :class:`KindFitter`.
        reads: how the two columns are spelled.
    """

    kind = "since"

    def __init__(
        self, feature: str, column: str, other: str, missing: Collection[str], reads: Mapping[str, Notation]
    ) -> None:
        super().__init__(feature, column, missing)
        self.columns = (column, other)
        self._reads = {name: notation.to_dict() for name, notation in reads.items()}
        known = {"column": column, "since": other, "mean": 0.0, "std": 1.0, "reads": self._reads}
        self._since = Since(feature, known, missing)
        self._moments = Moments()

    def update(self, columns: tuple[Any, ...], locate: Locate) -> None:
        """Add rows."""
        found = self._since.seconds(*columns)
        gaps = np.isnan(found)
        self.rows += len(found)
        self._moments.add(found[~gaps])

    def finish(self) -> dict[str, Any]:
        """Return the mean and the standard deviation, in seconds.

        Raises:
            DataError: if no training row has both dates.
        """
        moments = self._moments.finish()
        if not moments.count:
            raise DataError(
                f"Column {self.columns[0]!r}: expected dates in it and in {self.columns[1]!r} (`since`), found no "
                "training row with both. Take `since` out, or say how the dates are spelled."
            )
        return {"since": self.columns[1], "mean": moments.mean, "std": moments.std, "reads": self._reads}


def since_fitters(columns: TableColumns, names: Collection[str]) -> Iterator[SinceFitter]:
    """Make the fitters of the declared differences between dates.

    Args:
        columns: the declaration.
        names: the columns of dates that are declared.
    """
    for name in names:
        other = columns.date(name).since
        if other is not None:
            reads = {column: columns.date(column).notation for column in (name, other)}
            yield SinceFitter(f"{name}.since_{other}", name, other, columns.missing, reads)


def derived_features(columns: TableColumns, numeric: Mapping[str, Profile]) -> dict[str, dict[str, Any]]:
    """Return the parts of dates and the quantiles of numbers, for the schema, by feature.

    Args:
        columns: the declaration.
        numeric: the features that are numbers, by column.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, profile in numeric.items():
        shares, is_date = chosen_for(columns.buckets, name), bool(profile.reading.notation.dates)
        if shares is None and not is_date:
            continue
        sample = profile.reading.sample.finish()
        reads = {} if profile.notation is None else {name: profile.notation.to_dict()}
        if is_date:
            found |= _dates(name, columns.date(name), sample, reads)
        if shares is not None:
            found[f"{name}.bucket"] = {
                "kind": "bucket",
                "column": name,
                "bounds": bounds(sample, _checked(name, shares)).tolist(),
                "reads": reads,
            }
    return found


def _checked(name: str, shares: Any) -> int:
    if isinstance(shares, bool) or not isinstance(shares, int) or not 2 <= shares <= 1_000:
        raise ConfigurationError(
            f"`buckets: {{{name}: {shares!r}}}`: expected a number of quantiles from 2 to 1000, found {shares!r}."
        )
    return shares


def _dates(
    name: str, column: DateColumn, sample: NDArray[np.float64], reads: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    parts = usual_parts(sample, column.zone or "UTC") if column.parts is None else column.parts
    common = {"column": name, "zone": column.zone or "UTC", "reads": dict(reads)}
    found: dict[str, dict[str, Any]] = {}
    if codes := [part for part in parts if part == "year" or part in PARTS]:
        known: dict[str, Any] = {"kind": "calendar", **common, "parts": codes}
        if "year" in codes:
            known["years"] = _years(sample, column.zone or "UTC")
        found[f"{name}.calendar"] = known
    if cycles := [part for part in parts if part in CYCLES]:
        found[f"{name}.cycles"] = {"kind": "cycles", **common, "parts": cycles}
    return found


def _years(sample: NDArray[np.float64], zone: str) -> list[int]:
    """Return the first and the last year of dates (n,), rising."""
    years = pc.year(local_times(sample, zone)).drop_null()
    return [years[0].as_py(), years[-1].as_py()] if len(years) else [0, 0]


def usual_parts(seconds: NDArray[np.float64], zone: str = "UTC") -> list[str]:
    """Return the parts that dates are given by where none are declared.

    ``weekday`` where they fall on several; ``time_of_day`` where they differ in it; ``day_of_year`` where they are
    spread over 300 days or more.

    Args:
        seconds: dates of training rows (n,), rising, in seconds since 1970.
        zone: that of the calendar.
    """
    times = local_times(seconds, zone)
    varied = {part: len(pc.unique(pc.drop_null(of(times)))) > 1 for part, of in _VARY.items()}
    spread = seconds[-1] - seconds[0] if len(seconds) else 0.0
    parts = {
        "weekday": varied["weekday"],
        "time_of_day": varied["hour"] or varied["minute"],
        "day_of_year": spread >= _YEAR,
    }
    return [part for part, there in parts.items() if there]


_VARY = {"weekday": pc.day_of_week, "hour": pc.hour, "minute": pc.minute}
