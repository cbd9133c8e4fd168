"""What of some rows is unlike those of training, by column, with counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mtl_lightning.encoding.drift import DriftCounts, percent
from mtl_lightning.encoding.lenient import Faults

__all__ = ["ColumnReport", "Report", "report_of"]

_MOST = 12  # columns that are listed


@dataclass(frozen=True)
class ColumnReport:
    """What of one column is unlike training.

    Attributes:
        column: the column.
        kind: ``absent``, a column that is not there; ``unreadable``, cells of another type than the column's, which
            cannot be read; both are taken for missing. ``unseen`` categories, which training did not have; ``outside``,
            numbers far outside the range of training; ``missing``, more gaps than in training.
        cells: how many.
        share: of all rows; of ``missing`` ones, what is beyond the share in training.
        words: the same in words.
        rows: the first rows, counted from 0, with unreadable cells.
    """

    column: str
    kind: str
    cells: int
    share: float
    words: str
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """What of some rows is unlike those of training, the largest shares first; false where nothing is.

    Attributes:
        rows: how many rows were looked at.
        columns: a :class:`ColumnReport` for each column and kind.
    """

    rows: int
    columns: tuple[ColumnReport, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns)

    def __str__(self) -> str:
        if not self:
            return f"{self.rows} rows, with nothing in them that training never saw."
        lines = [f"  {one.column}: {one.words}" for one in self.columns[:_MOST]]
        lines += [f"  and {len(self.columns) - _MOST} more"] if len(self.columns) > _MOST else []
        return "\n".join([f"{self.rows} rows, of which training never saw the like in", *lines])

    def above(self, share: float) -> list[str]:
        """Return the columns in which a larger share than this is unlike training."""
        return list(dict.fromkeys(one.column for one in self.columns if one.share > share))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"rows": self.rows, "columns": [asdict(one) | {"rows": [*one.rows]} for one in self.columns]}


def report_of(drift: DriftCounts, faults: Faults) -> Report:
    """Put together what was counted."""
    rows = drift.rows
    found: list[ColumnReport] = []
    for name, cells in faults.absent.items():
        words = f"is not there, in {percent(cells / rows)} of the rows; taken for missing"
        found.append(ColumnReport(name, "absent", cells, cells / rows, words))
    for name, cells in faults.unreadable.items():
        shown: Sequence[tuple[int, str]] = faults.shown[name]
        examples = ", ".join(f"{cell} in row {row + 1}" for row, cell in shown)
        words = f"{percent(cells / rows)} cannot be read, such as {examples}; taken for missing"
        found.append(ColumnReport(name, "unreadable", cells, cells / rows, words, tuple(row for row, _ in shown)))
    told = {*faults.absent, *faults.unreadable}
    others = [one for one in drift.found() if one.kind != "missing" or one.column not in told]
    found += [ColumnReport(one.column, one.kind, one.cells, one.share, one.words) for one in others]
    return Report(rows, tuple(sorted(found, key=lambda one: -one.share)))
