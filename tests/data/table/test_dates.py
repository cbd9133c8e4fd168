"""Dates and times, and quantiles of numbers as categories: what becomes of them, whatever they come as."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from mtl_lightning.data import DateColumn, Streaming, TableColumns, TableData, TableEncoder, TableFitter, TableSplit
from mtl_lightning.data.table.target_column import TargetColumn
from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.kinds.dates import CYCLES, PARTS, local_times
from mtl_lightning.encoding.lenient import Faults, LenientEncoder
from mtl_lightning.types import ConfigurationError, DataError, TableSpec, input_spec_from_dict

ALL = ["year", *PARTS, *CYCLES]
BERLIN = ZoneInfo("Europe/Berlin")


def fitted(table: Any, **declared: Any) -> dict[str, Any]:
    table = table.append_column("y", pa.array(np.arange(len(table)) % 7.0))
    fitter = TableFitter(TableColumns({"y": TargetColumn(kind="number")}, **declared))
    fitter.update(table)
    return fitter.finish()


def spec_of(schema: dict[str, Any]) -> TableSpec:
    spec = input_spec_from_dict(schema["input_spec"])
    assert isinstance(spec, TableSpec)
    return spec


def by_name(schema: dict[str, Any], rows: Any) -> dict[str, list[float]]:
    """The encoded rows by the name of what the network is given."""
    if isinstance(rows, list):
        encoder, faults = LenientEncoder(schema), Faults()
        inputs = {name: torch.from_numpy(a) for name, a in encoder.rows(rows, encoder.counts(), faults).items()}
        assert not faults
    else:
        inputs = TableEncoder(schema).encode(rows, targets=False)["inputs"]
    spec = spec_of(schema)
    names = [*((name, "numeric") for name in spec.numeric), *((name, "categorical") for name in spec.categorical)]
    found = [*inputs["numeric"].T.tolist(), *inputs["categorical"].T.tolist()]
    return {name: column for (name, _), column in zip(names, found, strict=True)}


# ------------------------------------------------------------------------------------------------------- the calendar
@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2150, 1, 1)), min_size=1, max_size=5),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
    fold=st.booleans(),
)
def test_the_parts_are_those_of_pythons_calendar(times: list[datetime], zone: str, fold: bool) -> None:
    local = [time.replace(tzinfo=timezone.utc, fold=fold).astimezone(ZoneInfo(zone)) for time in times]
    found = local_times(np.array([time.timestamp() for time in local]), zone)
    expected = {
        "quarter": [(time.month - 1) // 3 for time in local],
        "month": [time.month - 1 for time in local],
        "week": [time.isocalendar().week - 1 for time in local],
        "day": [time.day - 1 for time in local],
        "weekday": [time.weekday() for time in local],
        "hour": [time.hour for time in local],
    }
    assert {part: PARTS[part].of(found).to_pylist() for part in PARTS} == expected
    for time, day, week, year in zip(local, *(CYCLES[cycle](found) for cycle in CYCLES), strict=True):
        seconds = time.hour * 3600 + time.minute * 60 + time.second
        assert day == pytest.approx(seconds / 86400)
        assert week == pytest.approx((time.weekday() + seconds / 86400) / 7)
        days = 366 if time.year % 4 == 0 and (time.year % 100 or time.year % 400 == 0) else 365
        assert year == pytest.approx((time.timetuple().tm_yday - 1) / days)


def test_clocks_changed_within_a_quarter_of_an_hour() -> None:
    """Liberia's went from -0:44:30 to 0 at 0:44:30 UTC of 7 January 1972."""
    start = datetime(1972, 1, 7, 0, 40, tzinfo=timezone.utc)
    times = [start + timedelta(seconds=30 * n) for n in range(60)]
    found = local_times(np.array([time.timestamp() for time in times]), "Africa/Monrovia").to_pylist()
    assert found == [time.astimezone(ZoneInfo("Africa/Monrovia")).replace(tzinfo=None) for time in times]


def test_all_parts_by_hand() -> None:
    table = pa.table({"t": ["2024-02-29 18:30:00", "2021-12-31 00:00:00", None]})
    schema = fitted(table, dates={"t": DateColumn(parts=ALL)})
    found = by_name(schema, table)
    assert {name: codes for name, codes in found.items() if name.partition(".")[2] in ("year", *PARTS)} == {
        "t.year": [4, 1, 0],
        "t.quarter": [1, 4, 0],
        "t.month": [2, 12, 0],
        "t.week": [9, 52, 0],
        "t.day": [29, 31, 0],
        "t.weekday": [4, 5, 0],
        "t.hour": [19, 1, 0],
    }
    assert found["t.time_of_day_sin"][0] == pytest.approx(np.sin(2 * np.pi * 18.5 / 24))
    assert found["t.day_of_year_cos"][1] == pytest.approx(np.cos(2 * np.pi * 364 / 365))
    assert np.isnan(found["t.day_of_year_cos"][2])
    assert spec_of(schema).categorical["t.year"] == 5
    later = by_name(schema, pa.table({"t": ["2030-01-01", "2020-06-01", "2022-01-01"]}))
    assert later["t.year"] == [0, 0, 2]  # years that training did not have are unknown


@pytest.mark.parametrize(
    ("step", "number", "parts"),
    [
        (timedelta(days=1), 400, ["weekday", "day_of_year"]),
        (timedelta(hours=7), 60, ["weekday", "time_of_day"]),
        (timedelta(hours=7), 2000, ["weekday", "time_of_day", "day_of_year"]),
        (timedelta(days=7), 20, []),
    ],
)
def test_the_usual_parts_are_those_in_which_rows_differ(step: timedelta, number: int, parts: list[str]) -> None:
    texts = [(datetime(2023, 1, 2) + step * n).isoformat(" ") for n in reversed(range(number))]
    for declared in ({"dates": ["t"]}, {}):
        kinds = fitted(pa.table({"t": texts, "x": np.arange(number) % 3.5}), **declared).get("kinds", {})
        assert [part for known in kinds.values() for part in known["parts"]] == parts


# ------------------------------------------------------------------------------------------------------ however stored
TIMES = [
    datetime(2023, 3, 26, 1, 30),
    datetime(2023, 3, 26, 2, 30),
    datetime(2023, 10, 29, 2, 30),
    datetime(1969, 7, 20),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.datetimes(datetime(1950, 1, 1), datetime(2035, 1, 1)), min_size=1, max_size=4))
def test_times_without_a_zone_are_in_the_declared_one(times: list[datetime]) -> None:
    """Texts, Arrow's times and Python's, in hours that clocks skip and pass twice as well, as Python's zoneinfo."""
    times = [time.replace(fold=0) for time in (*TIMES, *times)]
    expected = [time.replace(tzinfo=BERLIN).timestamp() for time in times]
    declared = {"dates": {"t": DateColumn(zone="Europe/Berlin", parts=["hour", "weekday"])}}
    texts = pa.table({"t": [time.isoformat(" ") for time in times]})
    schema = fitted(texts, **declared)
    known = schema["numeric"]["t"]
    found = by_name(schema, texts)
    seconds = np.array(found["t"]) * known["std"] + known["mean"]
    np.testing.assert_allclose(seconds, expected, atol=1e-5 * known["std"] + 1e-3)
    local = [datetime.fromtimestamp(time, BERLIN) for time in expected]
    assert found["t.hour"] == [time.hour + 1 for time in local]
    assert found["t.weekday"] == [time.weekday() + 1 for time in local]
    aware = [time.replace(tzinfo=BERLIN) for time in times]
    for rows in (
        pa.table({"t": pa.array(times, pa.timestamp("us"))}),
        pa.table({"t": pa.array(aware, pa.timestamp("us", tz="America/New_York"))}),
        pa.table({"t": [time.astimezone(timezone.utc).isoformat(" ", "microseconds") for time in aware]}),
        [{"t": time} for time in times],
        [{"t": time} for time in aware],
        [{"t": time.isoformat(" ")} for time in times],
    ):
        for name, column in by_name(schema, rows).items():
            np.testing.assert_allclose(column, found[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stream", [False, Streaming(buffer_rows=70)])
def test_csv_parquet_and_streams_give_the_same(tmp_path: Path, stream: Any) -> None:
    random = np.random.default_rng(0)
    days = [date(2022, 1, 1) + timedelta(days=int(n)) for n in random.integers(0, 700, 300)]
    times = [datetime(2024, 5, 1) + timedelta(minutes=int(n)) for n in random.integers(0, 90_000, 300)]
    age = random.normal(40, 9, 300)
    plain = {"y": random.normal(size=300), "fold": ["train"] * 240 + ["test"] * 40 + ["val"] * 20, "age": age}
    typed = pa.table({"day": pa.array(days), "time": pa.array(times, pa.timestamp("us")), **plain})
    texts = pa.table({"day": [f"{d:%d.%m.%Y}" for d in days], "time": [f"{t:%Y-%m-%d %H:%M}" for t in times], **plain})
    pq.write_table(typed, tmp_path / "t.parquet", row_group_size=90)
    pyarrow.csv.write_csv(texts, tmp_path / "t.csv")
    found = []
    for path, options in (("t.csv", {}), ("t.parquet", {"stream": stream})):
        data = TableData(
            path=str(tmp_path / path),
            targets={"y": TargetColumn(kind="number")},
            split=TableSplit(column="fold"),
            dates={"day": DateColumn(format="%d.%m.%Y", parts=ALL), "time": DateColumn(since="day", zone="Asia/Tokyo")},
            buckets={"age": 8},
            **options,
        )
        schema = {key: part for key, part in data.schema.items() if key != "reads"}
        found.append((schema, next(iter(data.test_dataloader()))["inputs"]))
    assert found[0][0] == found[1][0]
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------------------------ the rest
@pytest.mark.parametrize("spelled", [" ", "T"])
def test_dates_that_rise_from_row_to_row_are_dates(spelled: str) -> None:
    times = [datetime(2024, 1, 1) + timedelta(hours=7 * n) for n in range(400)]
    assert "t" in fitted(pa.table({"t": [time.isoformat(spelled) for time in times]}))["numeric"]
    assert "t" in fitted(pa.table({"t": pa.array(times, pa.timestamp("us"))}))["numeric"]


def test_times_in_nanoseconds_are_times() -> None:
    nanos = np.arange(400)[::-1] * 1_234_567_891_234_567
    schema = fitted(pa.table({"t": pa.array(nanos, pa.timestamp("ns"))}))
    assert schema["numeric"]["t"]["mean"] == pytest.approx(nanos.mean() / 1e9)
    zone = {"dates": {"t": DateColumn(zone="Asia/Tokyo")}}
    there = fitted(pa.table({"t": pa.array(nanos, pa.timestamp("ns"))}), **zone)["numeric"]["t"]["mean"]
    assert there == pytest.approx(nanos.mean() / 1e9 - 9 * 3600)


def test_dates_are_declared_by_dicts_in_python(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "t,y,x\n" + "".join(f"2024-01-{n:02d} 12:00,{n / 7},{n / 3}\n" for n in range(1, 31))
    )
    data = TableData(train=str(tmp_path / "t.csv"), targets=["y"], dates={"t": {"zone": "Asia/Tokyo"}})  # type: ignore[dict-item]
    assert data.schema["kinds"]["t.calendar"]["zone"] == "Asia/Tokyo"
    mixed = TableData(train=str(tmp_path / "t.csv"), targets={"d": TargetColumn(column="t", minus="y")})
    with pytest.raises(ConfigurationError, match="Target 'd': expected a difference of two numbers or of two dates"):
        mixed.read_schema()


def test_the_time_since_another_date() -> None:
    table = pa.table(
        {"a": ["2024-01-01", "2024-01-05", None], "b": ["2024-01-11 12:00", "2024-01-06 00:00", "2024-01-02"]}
    )
    table = table.set_column(1, "b", pa.array(["2024-01-11 12:00", "2024-01-06 00:00", "2024-01-02 00:00"]))
    schema = fitted(table, dates={"a": DateColumn(parts=[]), "b": DateColumn(parts=[], since="a")})
    found = by_name(schema, table)
    assert found["b.since_a"][:2] == pytest.approx([1, -1])
    assert np.isnan(found["b.since_a"][2])
    assert schema["kinds"]["b.since_a"]["mean"] == pytest.approx((10.5 + 1) / 2 * 86_400)
    with pytest.raises(ConfigurationError, match="Column 'y' holds a target"):
        fitted(table, dates={"b": DateColumn(since="y")})
    with pytest.raises(ConfigurationError, match="found 'c' in `since`"):
        fitted(table, dates={"b": DateColumn(since="c")})
    with pytest.raises(DataError, match="found no training row with both"):
        fitted(table.set_column(0, "a", pa.nulls(3, pa.string())), dates={"b": DateColumn(since="a")}, numeric=["a"])


def test_a_number_as_the_category_of_its_quantile() -> None:
    numbers = np.random.default_rng(0).permutation(1000) / 7
    schema = fitted(pa.table({"x": numbers}), buckets={"x": 10})
    codes = by_name(schema, pa.table({"x": numbers}))["x.bucket"]
    assert np.bincount(np.array(codes, int)).tolist() == [0, *[100] * 10]
    ordered = [code for _, code in sorted(zip(numbers, codes, strict=True))]
    assert ordered == sorted(codes)
    assert by_name(schema, pa.table({"x": [None, -1e9, 1e9]}))["x.bucket"] == [0, 1, 10]
    assert by_name(schema, [{"x": None}, {"x": "1000000000"}])["x.bucket"] == [0, 10]
    with pytest.raises(ConfigurationError, match=r"`buckets: \{x: 1\}`: expected a number of quantiles from 2"):
        fitted(pa.table({"x": numbers}), buckets={"x": 1})


def test_dates_beyond_training_are_told_as_dates() -> None:
    days = pa.table({"t": [f"2023-01-{n:02d}" for n in range(1, 31)]})
    schema = fitted(days)
    drift = DriftCounts(schema)
    TableEncoder(schema).encode(pa.table({"t": ["2024-06-01", "2023-01-05"]}), targets=False, drift=drift)
    (one,) = drift.found()
    assert one.words == "50 % are far outside of 2023-01-01 .. 2023-01-30, the range in training"


def test_a_cell_that_is_no_date_is_told_once() -> None:
    encoder = LenientEncoder(fitted(pa.table({"t": [f"2023-01-{n:02d}" for n in range(1, 31)]})))
    faults = Faults()
    encoder.rows([{"t": "soon"}, {"t": date(2023, 1, 2)}], encoder.counts(), faults)
    encoder.table(pa.table({"t": ["soon", "2023-01-02"]}), encoder.counts(), faults)
    assert faults.unreadable == {"t": 2}


def test_declarations_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"`zone`: expected a time zone .*found 'Berlin'"):
        DateColumn(zone="Berlin")
    with pytest.raises(ConfigurationError, match=r"`parts`: expected some of .*found 'weekdy'.*weekday"):
        DateColumn(parts=["weekdy"])


def test_dates_in_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TableData, "data")
    dates = "{a: '%d.%m.%Y', b: {zone: Asia/Tokyo, parts: [hour], since: a}}"
    text = f"{{data: {{targets: [y], dates: {dates}, buckets: {{x: 4}}}}}}"
    data = parser.instantiate(parser.parse_string(text)).data
    assert data.columns.date("b") == DateColumn(zone="Asia/Tokyo", parts=["hour"], since="a")
    assert data.columns.date("a") == DateColumn(format="%d.%m.%Y")
    assert data.columns.buckets == {"x": 4}
