"""Fits what must be known of the targets of a table on those training rows where their labels count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.data.table import labels
from mtl_lightning.data.table.columns import TableColumns, in_order
from mtl_lightning.data.table.conditions import Conditions, part_of
from mtl_lightning.data.table.guess import guess_target
from mtl_lightning.data.table.profile import Kind, Profile
from mtl_lightning.data.table.readings import Locate
from mtl_lightning.data.table.target_column import TargetColumn, as_text
from mtl_lightning.data.table.words import refuse_spoiled
from mtl_lightning.encoding.cells import CellError, numbers, texts
from mtl_lightning.encoding.notation import Notation
from mtl_lightning.names import listed
from mtl_lightning.types import ConfigurationError, DataError

_LEVELS = 1_000  # more are no levels that can be told apart
_SHOWN = 12


class LabelFitter:
    """Follows the targets of a table.

    Args:
        columns: what is declared.
    """

    def __init__(self, columns: TableColumns) -> None:
        self.columns = columns
        self._missing = frozenset(columns.missing)
        of = columns.target_columns()
        self._tasks = {task: _Label(task, of[task], target, columns) for task, target in columns.targets.items()}
        self._met: dict[tuple[str, str], Counter[str]] = {}
        questions = {task: label for task, label in self._tasks.items() if label.target.is_yes_or_no}
        self._conditions = Conditions(
            columns.only_where,
            of,
            {task: partial(self._answer, label) for task, label in questions.items()},
            self._texts,
            self._note,
        )
        names = {*columns.condition_columns()}
        names |= {of[n] for conditions in columns.only_where.values() for n in conditions if n in of}
        self._read_as_text = names

    def needed(self) -> dict[str, str]:
        """Return the columns it looks at, as ``"number"`` or ``"text"``."""
        parts = [part for label in self._tasks.values() for part in label.profiles.items()]
        wanted = {name: "number" for name, profile in parts if profile.kind == "number"}
        wanted |= {name: "text" for name, profile in parts if profile.kind != "number"}
        return wanted | dict.fromkeys(self._read_as_text, "text")

    def update(self, batch: Any, locate: Locate) -> None:
        """Add training rows: an Arrow batch (N rows)."""
        for label in self._tasks.values():  # conditions that read numbers know by then how they are spelled
            if label.task not in self.columns.only_where:
                label.update(batch, locate, self._cells(label, batch))
        for label in self._tasks.values():
            rows = self._conditions.rows(label.task, batch)
            if rows is not None:
                part = part_of(batch, [*label.profiles], rows)
                label.update(part, _those(locate, rows), self._cells(label, part))

    def _cells(self, label: _Label, batch: Any) -> labels.Cells:
        return labels.Cells(batch, lambda part, name: label.numbers(part.column(name), name), self._texts)

    def _answer(self, label: _Label, batch: Any) -> NDArray[np.int64]:
        return labels.answer(labels.question(label.target, label.column), self._cells(label, batch))

    def _texts(self, batch: Any, name: str) -> tuple[NDArray[np.int64], list[str]]:
        return texts(batch.column(name), self._missing)

    def _note(self, task: str, name: str, values: Sequence[str]) -> None:
        met = self._met.setdefault((task, name), Counter())
        wanted = self.columns.only_where[task][name]
        met.update(value for value in values if value in wanted or len(met) < _SHOWN)

    def profiles(self) -> dict[str, Profile]:
        """Return the profiles by column; of a column with several, one that has looked at it as numbers."""
        parts = [part for label in self._tasks.values() for part in label.profiles.items()]
        return dict(parts) | {name: profile for name, profile in parts if profile.kind != "category"}

    def absent(self) -> dict[str, int]:
        """Return the number of missing cells by column, of those whose labels count everywhere."""
        always = [label for label in self._tasks.values() if label.task not in self.columns.only_where]
        return {name: profile.absent for label in always for name, profile in label.profiles.items()}

    def finish(self, doubts: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Return what is known of each task's target; adds what else it may be to ``doubts``.

        Raises:
            DataError: for labels that cannot be what they are declared as, and if there are none.
        """
        found = {}
        for task, label in self._tasks.items():
            conditions = self.columns.only_where.get(task)
            if conditions and not label.rows:
                self._refuse_unmet(task, conditions)
            found[task] = label.finish(doubts)
            if conditions:
                found[task]["only_where"] = {name: list(values) for name, values in conditions.items()}
        return found

    def _refuse_unmet(self, task: str, conditions: Mapping[str, Sequence[str]]) -> None:
        told = {name: list(self._met.get((task, name), Counter())) for name in conditions}
        raise DataError(
            f"`only_where`, task {task!r}: expected training rows where {_as_written(conditions)}, found none; met: "
            + ", ".join(f"{listed(values, 5)} in {name!r}" for name, values in told.items())
            + "."
        )


def _as_written(conditions: Mapping[str, Sequence[str]]) -> str:
    return " and ".join(f"{name!r} is {' or '.join(map(repr, values))}" for name, values in conditions.items())


class _Label:
    """Follows one target, in rows where its labels count."""

    def __init__(self, task: str, column: str, target: TargetColumn, columns: TableColumns) -> None:
        self.task, self.column, self.target = task, column, target
        self._spellings = frozenset(columns.missing)
        self.rows = 0
        self.made = Profile("number")  # logarithms and differences
        self.yes = Counter[int]()
        self._skipped = False

        def profile(kind: Kind | None, name: str) -> Profile:
            return Profile(kind, self._spellings, False, columns.notations(name))

        self.profiles = {column: profile(_kind(target), column)}
        self.profiles |= {n: profile("number", n) for n in (target.exposure, target.minus) if n is not None}
        self.profiles |= {n: profile("category", n) for n in (target.event,) if n is not None}
        self._used: dict[str, Notation] = {}

    @property
    def main(self) -> Profile:
        """The profile of the target's own column."""
        return self.profiles[self.column]

    def update(self, batch: Any, locate: Locate, cells: labels.Cells) -> None:
        """Add rows (N) where its labels count."""
        self.rows += batch.num_rows
        for name, profile in self.profiles.items():
            update(profile, batch, name, locate)
        if any(profile.is_spoiled for profile in self.profiles.values()):
            self._skipped = True  # told in the end, with all such cells
            return
        target, known = self.target, {"column": self.column}
        try:
            if target.is_yes_or_no:
                answers = labels.answer(labels.question(target, self.column), cells)
                self.yes.update({1: int((answers == 1).sum()), 0: int((answers == 0).sum())})
            elif target.log or target.minus is not None:
                found = labels.number({**known, "log": target.log, "minus": target.minus}, cells)
                self.made.update(pa.array(found, from_pandas=True), locate)
            elif target.settled == "count":
                labels.count({**known, "exposure": target.exposure}, cells)
            elif target.settled == "survival":
                labels.survival({**known, "event": target.event}, cells)
        except CellError as error:
            if error.row is None:
                raise
            raise DataError(f"{locate(error.row)}: {error}.") from error

    def numbers(self, column: Any, name: str) -> NDArray[np.float64]:
        """Read a column of numbers as the cells met so far are spelled."""
        profile = self.profiles.get(name)
        if profile is None or not profile.is_readable:
            return numbers(column, self._spellings)
        notation = profile.reading.notation
        if not notation.is_plain and self._used.setdefault(name, notation) != notation:
            self._refuse_spellings(name)
        try:
            return numbers(column, self._spellings, notation)
        except CellError as error:
            raise CellError(f"column {name!r}: {error}", error.row) from error

    def _expect_alike(self, one: Profile, other: Profile) -> None:
        """Refuse the difference of a date and a number."""
        if len({bool(part.reading.notation.dates) for part in (one, other) if part.present}) > 1:
            raise ConfigurationError(
                f"Target {self.task!r}: expected a difference of two numbers or of two dates, found a date in one of "
                f"{self.column!r} and {self.target.minus!r}, and numbers in the other. Take another column as `minus`."
            )

    def _refuse_spellings(self, name: str) -> None:
        raise ConfigurationError(
            f"Column {name!r}: expected numbers that are all spelled in one way, found that this shows only after "
            "some rows. Say how: `thousands`, `decimal` or `dates`."
        )

    def finish(self, doubts: dict[str, str]) -> dict[str, Any]:
        """Return what is known: where it is, how it is read, its classes or its moments."""
        target, profile = self.target, self.main
        known: dict[str, Any] = {"column": self.column, "guessed": False}
        for name, part in self.profiles.items():
            if part.is_spoiled and not (target.is_missing and name == self.column):
                refuse_spoiled(name, part, f"declare the target: `targets: {{{self.task}: {{kind: classes}}}}`")
        if self._skipped and (target.is_derived or target.settled in ("count", "survival")):
            self._refuse_spellings(self.column)
        if target.is_yes_or_no:
            return known | labels.question(target, self.column) | {"counts": self._answers()}
        if target.log or target.minus is not None:
            made = {"log": True} if target.log else {"minus": target.minus}
            if target.minus is not None:
                self._expect_alike(profile, self.profiles[target.minus])
            return known | {"kind": "number", **made, **self._moments(self.made)}
        kind, doubt = target.settled, ""
        if kind is None:
            kind, doubt = guess_target(self.task, self.column, profile)
        doubts.update({f"target {self.task}": doubt} if doubt else {})
        known |= {"kind": kind, "guessed": target.settled is None}
        if kind in ("classes", "ordinal"):
            values = self._levels() if kind == "ordinal" else self._classes()
            met = profile.categories()
            ordered = {"ordered": True} if kind == "ordinal" else {}
            return known | ordered | {"values": values, "counts": [met.get(value, 0) for value in values]}
        if kind == "count":
            return known | {"exposure": target.exposure, **self._moments(profile)}
        return known | ({"event": target.event} if kind == "survival" else {}) | self._moments(profile)

    def _moments(self, profile: Profile) -> dict[str, float]:
        if not profile.present:
            raise DataError(f"Target {self.task!r}: expected numbers in the training split, found none.")
        moments = profile.reading.moments.finish()
        return {"mean": moments.mean, "std": moments.std}

    def _answers(self) -> list[int]:
        """Return how many rows say no and yes; refuse values that none has, which would be a misspelling."""
        target, found = self.target, self.main.counts
        if target.positive is not None and not found.keys() & {*map(as_text, target.positive)}:
            wanted = [as_text(value) for value in target.positive]
            raise DataError(
                f"Target {self.task!r}: expected some of {listed(wanted)} in the training split, found "
                f"{listed([*found])}."
            )
        if target.is_missing and not (self.yes[0] and self.yes[1]):
            raise DataError(
                f"Target {self.task!r}: expected column {self.column!r} to hold something in some training rows and "
                f"nothing in others, found {self.yes[1]} of {self.rows} rows without."
            )
        return [self.yes[0], self.yes[1]]

    def _classes(self) -> list[str]:
        classes = self.main.categories()
        if len(classes) < 2:
            raise DataError(
                f"Target {self.task!r}: expected at least 2 classes in the training split, found {list(classes)}."
            )
        return in_order(classes)

    def _levels(self) -> list[str]:
        """Return the levels in their order."""
        found = self.main.categories()
        declare = f"`targets: {{{self.task}: {{order: [lowest, ..., highest]}}}}`"
        if self.target.order is not None:
            levels = [as_text(level) for level in self.target.order]
            levels = [level.lower() for level in levels] if self.main.are_bools else levels
            if others := [value for value in found if value not in levels]:
                raise DataError(
                    f"Target {self.task!r}: expected the levels {listed(levels)} of `order`, found {listed(others)} "
                    "too. Name all of them, or name what stands for a missing value in `missing_values`."
                )
        else:
            try:
                levels = sorted(found, key=lambda value: (float(value), value))
            except ValueError:
                raise DataError(
                    f"Target {self.task!r}: expected levels that are numbers, or their order, found "
                    f"{listed([*found], 4)}. Give it: {declare}."
                ) from None
        if not 2 <= len(levels) <= _LEVELS or not found:
            raise DataError(
                f"Target {self.task!r}: expected 2 to {_LEVELS} levels in the training split, found "
                f"{len(levels) if found else 0}. If they are amounts, declare `kind: number`."
            )
        return levels


def _kind(target: TargetColumn) -> Kind | None:
    """Return as what a target's column is read; None to find out."""
    if target.positive is not None or target.settled in ("classes", "ordinal"):
        return "category"
    is_number = target.at_least is not None or target.log or target.minus is not None
    return "number" if is_number or target.settled in ("number", "count", "survival") else None


def _those(locate: Locate, rows: NDArray[np.int64]) -> Locate:
    return lambda row: locate(int(rows[row]))


def update(profile: Profile, batch: Any, name: str, locate: Locate) -> None:
    """Add the training rows of a batch to a column's profile; an error names the column."""
    try:
        profile.update(batch.column(name), locate)
    except CellError as error:
        raise CellError(f"column {name!r}: {error}", error.row) from error
