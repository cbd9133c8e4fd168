"""How numbers are spelled: which texts are which numbers, and what a whole column is taken for."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from mtl_lightning.data import TableColumns, TableEncoder, TableFitter, TargetColumn
from mtl_lightning.encoding.notation import (
    BOOLS,
    COMMAS,
    ISO_DATES,
    PLAIN,
    POINTS,
    USUAL,
    Notation,
    declared,
)
from mtl_lightning.types import ConfigurationError, DataError

SPACES, SPACES_COMMA = USUAL[4], USUAL[5]


@pytest.mark.parametrize(
    ("notation", "text", "number", "unit"),
    [
        (PLAIN, "-1.5e3", -1500, ""),
        (COMMAS, "2,125,730", 2125730, ""),
        (COMMAS, "-1,234.50", -1234.5, ""),
        (COMMAS, "$1,200.00", 1200, "$"),
        (COMMAS, "-$5", -5, "$"),
        (COMMAS, "($5.25)", -5.25, "$"),
        (COMMAS, "12 %", 12, "%"),
        (COMMAS, "+5", 5, ""),
        (COMMAS, "7 USD", 7, "USD"),
        (POINTS, "1.234,5", 1234.5, ""),
        (POINTS, "100,13 €", 100.13, "€"),
        (POINTS, "1.250.000", 1250000, ""),
        (POINTS, ",5", 0.5, ""),
        (SPACES, "12 345.5", 12345.5, ""),
        (SPACES, "12'345", 12345, ""),
        (SPACES_COMMA, "\u22121\u00a0234,5", -1234.5, ""),
        (BOOLS, "TRUE", 1, ""),
        (ISO_DATES, "1970-01-02", 86400, ""),
        (ISO_DATES, "1970-01-01T01:00:00+01:00", 0, ""),
        (Notation(dates="%d.%m.%Y"), "02.01.1970", 86400, ""),
    ],
)
def test_a_number_is_read(notation: Notation, text: str, number: float, unit: str) -> None:
    found, its_unit = notation.parse(text)
    assert found == pytest.approx(number)
    assert its_unit == unit


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        (PLAIN, "1,5"), (PLAIN, "1_0"), (PLAIN, "x"),
        (COMMAS, "12,34,567"), (COMMAS, "1,2"), (COMMAS, "0,123"), (COMMAS, "1.5.2"), (COMMAS, "--5"),
        (COMMAS, "$5%"), (COMMAS, "(5"), (COMMAS, "A12"), (COMMAS, "12 34"), (COMMAS, "-"), (COMMAS, "$"),
        (POINTS, "1.5"), (POINTS, "1e5"), (SPACES, "1 23"), (SPACES, "1 234'567"),
        (ISO_DATES, "2024"), (ISO_DATES, "2024-02-30"), (ISO_DATES, "31.01.2024"), (BOOLS, "yes"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_none(notation: Notation, text: str) -> None:
    assert notation.parse(text) == (math.inf, "")


def fit(cells: list[Any], **declared: Any) -> tuple[dict[str, Any], list[float]]:
    """The schema of a table with this target, and the target as it is encoded, in its own units."""
    table = pa.table({"y": cells, "f": [i % 7 + 0.5 for i in range(len(cells))]})
    fitter = TableFitter(TableColumns(targets={"y": TargetColumn()}, **declared))
    for batch in table.to_batches(max_chunksize=11):
        fitter.update(batch)
    schema = fitter.finish()
    return schema, TableEncoder(schema).encode(table)["targets"]["y"].tolist()


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ([f"{i * 12345 + 100:,}" for i in range(60)], [i * 12345 + 100 for i in range(60)]),
        ([f"{i + 100}" for i in range(30)] + [f"{i * 5432:,}" for i in range(1, 31)],
         [*range(100, 130), *(i * 5432 for i in range(1, 31))]),  # plain ones come first
        ([f"{i / 8:.2f}".replace(".", ",") for i in range(60)], [round(i / 8, 2) for i in range(60)]),
        ([f"$ {i / 4:.2f}" for i in range(60)], [i / 4 for i in range(60)]),
        ([f"{i / 4}%" for i in range(60)], [i / 4 for i in range(60)]),
        ([f"1970-01-{i % 28 + 1:02d}" for i in range(60)], [86400 * (i % 28) for i in range(60)]),
    ],
)  # fmt: skip
def test_a_column_that_agrees_is_read(cells: list[str], found: list[float]) -> None:
    schema, encoded = fit([*cells, ""])
    assert schema["targets"]["y"]["kind"] == "number"
    assert schema["targets"]["y"]["mean"] == pytest.approx(sum(found) / len(found))
    assert encoded[:-1] == pytest.approx(found)
    assert math.isnan(encoded[-1])


def test_what_is_declared_is_read() -> None:
    cells = [f"{i},500" for i in range(1, 61)]
    assert fit(cells, thousands=",")[1] == [i * 1000 + 500 for i in range(1, 61)]
    assert fit(cells, decimal=",")[1] == [i + 0.5 for i in range(1, 61)]
    days = [f"{i % 28 + 1:02d}.01.1970" for i in range(60)]
    assert fit(days, dates={"y": "%d.%m.%Y"})[1] == [86400 * (i % 28) for i in range(60)]
    assert fit(["1.234"] * 20 + ["5,5"] * 20 + ["7"], thousands=".", decimal=",")[1][::20] == [1234, 5.5, 7]
    thousands = [f"{i}.000" for i in range(1, 61)] + [f"{i},5" for i in range(60)]  # 1.000 is a thousand, as 1.234 is
    wanted = [*(1000 * i for i in range(1, 61)), *(i + 0.5 for i in range(60))]
    assert fit(thousands, thousands=".", decimal=",")[1] == wanted
    assert fit(thousands[::-1], thousands=".")[1] == wanted[::-1]
    assert declared(None, ",") == Notation(decimal=",")
    with pytest.raises(ConfigurationError, match="one character"):
        declared("..", None)
    with pytest.raises(ConfigurationError, match="that differ"):
        declared(",", ",")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([f"{i},500" for i in range(1, 61)], r"in '1,500'.*`thousands: ','` if that is 1500, `decimal: ','` if"),
        ([f"{i}%" for i in range(30)] + [f"{i}" for i in range(30)], r"of one unit, found \{'%': 30\} among 60"),
        ([f"${i}" for i in range(30)] + [f"€{i}" for i in range(30)], r"of one unit, found \{'\$': 30, '€': 30\}"),
        ([f"{i},25" for i in range(59)] + ["1.5"], r"row 60: column 'y': expected a number, found '1.5'"),
        ([f"2024-01-{i % 28 + 1:02d}" for i in range(59)] + ["soon"], r"row 60: .*found 'soon'; of 60 cells 1"),
        ([i / 7 for i in range(59)] + [1e200], r"row 60: column 'y': expected a number, found '1e\+200'"),
        ([i / 7 for i in range(59)] + [math.inf], r"row 60: column 'y': expected a number, found 'inf'"),
        ([str(i % 5) for i in range(99)] + ["x"], r"row 100: .*found 'x'; of 100 cells 1 are no numbers"),
        ([f"name {i % 20}" for i in range(60)], "at least 10 rows in the mean.*20 different texts in 60 rows"),
    ],
)  # fmt: skip
def test_a_column_that_does_not_agree_is_refused(cells: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fit(cells)
    assert len(str(caught.value)) < 600


def test_a_refused_column_is_read_as_the_message_says() -> None:
    spoiled = [str(i / 7) for i in range(59)] + ["oops"]
    assert fit(spoiled, missing_values=["oops"])[0]["missing"] == {"y": 1}
    assert fit([i / 7 for i in range(59)] + [math.inf], missing_values=["inf"])[0]["missing"] == {"y": 1}
    table = pa.table({"y": spoiled, "f": [0.5, 1.5] * 30})
    fitter = TableFitter(TableColumns(targets={"y": TargetColumn(kind="classes")}))
    fitter.update(table)
    assert len(fitter.finish()["targets"]["y"]["values"]) == 60


@pytest.mark.parametrize("absurd", [1e20, -1e30])
def test_one_absurd_cell_is_told_by_its_row(absurd: float) -> None:
    cells = [i / 7 for i in range(300)]
    assert not fit(cells)[0]["doubts"]
    cells[77] = absurd
    schema, _ = fit(cells)
    assert schema["doubts"] == {
        "target y": f"{absurd:.6g} in row 78 outweighs all other cells; correct it, or add it to `missing_values`"
    }
    assert math.isfinite(schema["targets"]["y"]["std"])


MARKS = ["", "NA", "N/A", "null", "NULL", "None", "NaN", "nan", "-", "#N/A"]


@pytest.mark.parametrize("mark", MARKS)
def test_the_usual_marks_are_missing_in_numbers_and_text_alike(mark: str) -> None:
    numbers = [mark if i % 10 == 5 else str(i / 8) for i in range(200)]
    texts = [mark if i % 10 == 7 else "xy"[i % 2] for i in range(200)]
    table = pa.table({"f": numbers, "g": texts, "price": numbers, "kind": texts})
    fitter = TableFitter(TableColumns(targets={"price": TargetColumn(), "kind": TargetColumn()}))
    fitter.update(table)
    schema = fitter.finish()
    assert schema["missing"] == {"f": 20, "g": 20, "price": 20, "kind": 20}
    assert (list(schema["numeric"]), schema["categorical"]) == (["f"], {"g": ["x", "y"]})
    assert {task: known["kind"] for task, known in schema["targets"].items()} == {"price": "number", "kind": "classes"}
    encoded = TableEncoder(schema).encode(table)
    assert encoded["targets"]["price"].isnan().sum() == (encoded["targets"]["kind"] == -100).sum() == 20


def test_marks_are_added_narrowed_and_switched_off() -> None:
    texts = ["None", "NA", "some", "?"] * 30
    for options, values in {
        (("missing_values", ("?",)),): ["some"],
        (("usual_missing", False),): ["?", "NA", "None", "some"],
        (("usual_missing", ("NA",)),): ["?", "None", "some"],
    }.items():
        fitter = TableFitter(TableColumns(targets={"y": TargetColumn()}, **dict(options)))  # type: ignore[arg-type]  # as declared
        fitter.update(pa.table({"f": texts, "y": [i / 7 for i in range(120)]}))
        assert fitter.finish()["categorical"] == {"f": values}
