"""What benchmarks find, as plain records: one structure, which is printed as Markdown and written as JSON.

A benchmark yields a :class:`Table` for each thing that it measured, with the goals that are judged by it. Numbers stay
numbers until they are printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what several rounds gave."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        """Show the median, and the quartiles in brackets."""
        return format(self)

    def __format__(self, form: str) -> str:
        """Show all three in a format."""
        form = form or ".3f"
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        low, median, high = quantiles([*values] * (1 if len(values) > 1 else 2), n=4, method="inclusive")
        return cls(low, median, high)


Cell: TypeAlias = "Spread | float | int | str | None"
"""What is in a table; None where there is nothing to tell."""


@dataclass(frozen=True)
class Goal:
    """A number that was found, beside the one that is good enough.

    Args:
        what: was measured.
        found: its value; of a spread the median counts.
        limit: the largest value that is good enough.
        at_least: the limit is the smallest one instead.
        unit: of both.
        form: of what was found, as in an f-string.
    """

    what: str
    found: Spread | float
    limit: float
    at_least: bool = False
    unit: str = ""
    form: str = ",.3f"

    @property
    def met(self) -> bool:
        """Whether it is good enough; what is not a number never is."""
        value = self.found.median if isinstance(self.found, Spread) else self.found
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def asked(self) -> str:
        """The limit, as it is printed."""
        return f"{'>=' if self.at_least else '<='} {_shown(self.limit)}{self.unit}"

    @property
    def reached(self) -> str:
        """What was found, as it is printed."""
        return f"{self.found:{self.form}}{self.unit}"

    def __str__(self) -> str:
        """Say what became of it."""
        return f"{self.what}: {self.reached}, goal {self.asked}: {'met' if self.met else 'missed'}"


def _shown(limit: float) -> str:
    """Show 2.8, 400,000 or 1e-06."""
    return f"{limit:,g}" if abs(limit) < 1e6 else f"{limit:,.0f}"


@dataclass(frozen=True)
class Table:
    """Something that was measured.

    Args:
        title: says what, and how often.
        columns: the names of the columns, each once, and the format of their numbers.
        rows: a cell for each column.
        goals: what is judged by it.
        notes: sentences that belong to it.
    """

    title: str
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Sequence[Cell]] = ()
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: expected {len(self.columns)} cells in a row, found {len(row)}: {row}")

    def markdown(self) -> Iterator[str]:
        """Yield the lines of a section in Markdown."""
        yield f"\n### {self.title}\n"
        if self.columns:
            yield f"| {' | '.join(self.columns)} |"
            yield "| " + " | ".join("---" for _ in self.columns) + " |"
        for row in self.rows:
            yield "| " + " | ".join(map(_text, row, self.columns.values())) + " |"
        if self.rows and (self.goals or self.notes):
            yield ""
        for line in (*self.goals, *self.notes):
            yield f"- {line}"

    def data(self) -> dict[str, Any]:
        """Return plain data: rows and goals as dicts."""
        return {
            "title": self.title,
            "rows": [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows],
            "goals": [
                {"what": goal.what, "found": _plain(goal.found), "limit": goal.limit, "at_least": goal.at_least,
                 "unit": goal.unit.strip(), "met": goal.met}
                for goal in self.goals
            ],
            "notes": [*self.notes],
        }  # fmt: skip


def _text(cell: Cell, form: str) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else f"{cell:{form}}"


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Spread):
        return {"median": cell.median, "low": cell.low, "high": cell.high}
    return cell
