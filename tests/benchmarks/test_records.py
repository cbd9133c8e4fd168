"""What is printed and what is written are made of the same records, and goals are judged either way round."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.records import Goal, Spread, Table


def test_one_value_is_its_own_spread() -> None:
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    assert f"{Spread(1.0, 2.0, 4.0):.1f}" == "2.0 (1.0 to 4.0)"


@pytest.mark.parametrize(
    ("found", "at_least", "met"),
    [(1.0, False, True), (1.1, False, False), (1.0, True, True), (0.9, True, False), (math.nan, True, False),
     (math.nan, False, False), (Spread(0.5, 1.0, 2.0), False, True), (Spread(0.5, 1.1, 2.0), False, False)],
)  # fmt: skip
def test_a_goal_is_met_at_its_limit(found: float | Spread, at_least: bool, met: bool) -> None:
    assert Goal("it", found, 1.0, at_least=at_least).met is met


def test_goals_say_what_was_found_and_asked() -> None:
    assert str(Goal("step", 2.5, 2.35)) == "step: 2.500, goal <= 2.35: missed"
    assert str(Goal("rate", 5e5, 400_000, at_least=True, form=",.0f")) == "rate: 500,000, goal >= 400,000: met"
    assert str(Goal("peak", 901.4, 900, unit=" MB", form=",.0f")) == "peak: 901 MB, goal <= 900 MB: missed"


def test_a_table_is_printed_and_written() -> None:
    table = Table(
        "T: a title",
        {"name": "", "ratio": ".2f", "rows": ","},
        [["a", Spread(1.0, 1.5, 2.0), 1000], ["b", None, 2]],
        [Goal("ratio", 1.5, 1.0)],
        ["A note."],
    )
    assert "\n".join(table.markdown()) == (
        "\n### T: a title\n\n| name | ratio | rows |\n| --- | --- | --- |\n| a | 1.50 (1.00 to 2.00) | 1,000 |\n"
        "| b |  | 2 |\n\n- ratio: 1.500, goal <= 1: missed\n- A note."
    )
    assert json.loads(json.dumps(table.data())) == {
        "title": "T: a title",
        "rows": [
            {"name": "a", "ratio": {"median": 1.5, "low": 1.0, "high": 2.0}, "rows": 1000},
            {"name": "b", "ratio": None, "rows": 2},
        ],
        "goals": [{"what": "ratio", "found": 1.5, "limit": 1.0, "at_least": False, "unit": "", "met": False}],
        "notes": ["A note."],
    }


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match=r"T: expected 2 cells in a row, found 1: \[1\]"):
        Table("T", {"a": "", "b": ""}, [[1]])
