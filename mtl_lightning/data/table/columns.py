"""What a user declares of a table's columns, and what follows from it for the columns that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from mtl_lightning.encoding.notation import BOOLS, ISO, ISO_DATES, PLAIN, USUAL, Notation, declared
from mtl_lightning.names import did_you_mean, listed
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

TargetKind = Literal["number", "classes"]
USUAL_MISSING = ("NA", "N/A", "null", "NULL", "None", "NaN", "nan", "-", "#N/A")
"""What R, SQL, Python, pandas and spreadsheets write for a missing value."""


@dataclass(frozen=True)
class TargetColumn(Ranged):
    """Where a task's target comes from.

    Args:
        column: the column; by default the one that is called as the task.
        positive: make a yes-or-no target of the column: 1 where it holds one of these values, else 0.
        at_least: make a yes-or-no target of a column of numbers: 1 where the number is at least this, else 0.
        kind: read the target as a ``"number"`` or as one of several ``"classes"``; by default what the task takes, or
            what the values look like.

    Raises:
        ConfigurationError: if more than one of ``positive``, ``at_least`` and ``kind`` is given.
    """

    column: str | None = None
    positive: list[str] | None = None
    at_least: float | None = None
    kind: TargetKind | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("positive", "at_least", "kind") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigurationError(f"Target: expected at most one of {given}. Remove all but one.")

    @property
    def is_derived(self) -> bool:
        """Whether the target is a question about the column, so that its kind is settled."""
        return self.positive is not None or self.at_least is not None


class ColumnRoles(NamedTuple):
    """The columns that a table has, by what they are for; ``open`` ones are yet to be guessed."""

    numeric: list[str]
    categorical: list[str]
    open: list[str]
    ignored: list[str]


@dataclass(frozen=True)
class TableColumns(Ranged):
    """The declaration of a table's columns; names may be patterns such as ``price_*``.

    A column that is declared by its full name keeps that role whatever patterns match it. One that is not declared at
    all becomes a feature whose kind is guessed, unless it is a target's, a weight's or among ``aside``. A column may be
    both numeric and categorical: it is then given to the network both ways.

    Args:
        targets: the target columns by task name.
        numeric: columns of numbers.
        categorical: columns of categories, however these are spelled.
        ignore: columns to leave out.
        aside: columns that serve another purpose (a split), features only if they are declared as such.
        weights: the column of sample weights of all tasks, or ``{task: column}``.
        log1p: numeric columns of which sign(x) log(1 + abs(x)) is taken, for amounts with a long tail; they need not
            be in ``numeric`` too.
        missing_values: what stands for a missing value, beside empty fields, null, nan and the usual marks.
        usual_missing: whether ``NA``, ``N/A``, ``null``, ``NULL``, ``None``, ``NaN``, ``nan``, ``-`` and ``#N/A`` stand
            for a missing value; or those of them, or others, that do.
        min_count: a category with fewer training rows than this counts as unseen.
        thousands: what sets groups of three digits apart in numbers, such as ``","``; where nothing is declared, what
            all cells of a column agree in.
        decimal: what stands before the fraction, such as ``","``; likewise.
        dates: columns of dates and times as ISO 8601 writes them; or ``{column: format}``, as of
            ``datetime.strptime``. They become seconds since 1970.
    """

    targets: Mapping[str, TargetColumn]
    numeric: Sequence[str] = ()
    categorical: Sequence[str] = ()
    ignore: Sequence[str] = ()
    aside: Sequence[str] = ()
    weights: str | Mapping[str, str] | None = None
    log1p: Sequence[str] = ()
    missing_values: Sequence[str] = ()
    usual_missing: bool | Sequence[str] = True
    min_count: int = 1
    thousands: str | None = None
    decimal: str | None = None
    dates: Sequence[str] | Mapping[str, str] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """All that stands for a missing value, beside empty fields, null and nan."""
        usual = self.usual_missing
        marks = (USUAL_MISSING if usual else ()) if isinstance(usual, bool) else usual
        return tuple(dict.fromkeys((*marks, *self.missing_values)))

    def notations(self, name: str) -> Sequence[Notation]:
        """Return how the texts of a column may spell numbers, the likelier ways first."""
        dates = self.dates if isinstance(self.dates, Mapping) else dict.fromkeys(self.dates, ISO)
        for pattern, form in dates.items():
            if matching(pattern, [name]):
                return (Notation(dates=form),)
        wanted = declared(self.thousands, self.decimal)
        return USUAL if wanted is None else tuple(dict.fromkeys((wanted, PLAIN, BOOLS, ISO_DATES)))

    def target_columns(self) -> dict[str, str]:
        """Return the column of each task's target."""
        return {task: target.column or task for task, target in self.targets.items()}

    def weight_columns(self) -> list[str]:
        """Return the columns of sample weights."""
        if self.weights is None:
            return []
        return [self.weights] if isinstance(self.weights, str) else list(dict.fromkeys(self.weights.values()))

    def roles(self, names: Sequence[str]) -> ColumnRoles:
        """Say what each of a table's columns is for.

        Raises:
            ConfigurationError: for a declared column, or a pattern, that the table does not have; for a target's
                column that is declared as a feature; and for a table without features.
        """
        targets = set(self.target_columns().values())
        for what, wanted in {
            "numeric": self.numeric,
            "categorical": self.categorical,
            "ignore": self.ignore,
            "log1p": self.log1p,
            "dates": [*self.dates],
            "targets": sorted(targets),
            "weights": self.weight_columns(),
        }.items():
            for name in wanted:
                if not (matching(name, names) if what not in ("targets", "weights") else name in names):
                    raise ConfigurationError(
                        f"Expected columns among {listed(names)}, found {name!r} in `{what}`."
                        f"{did_you_mean(name, names)}"
                    )
        reserved = targets | {*self.weight_columns()}
        if leaks := [name for name in (*self.numeric, *self.categorical, *self.log1p) if name in reserved]:
            raise ConfigurationError(
                f"Column {leaks[0]!r} holds a target or a weight, found it among the features: the network would be "
                "shown the answer. Take it out of `numeric`, `categorical` and `log1p`."
            )
        roles = ColumnRoles([], [], [], [])
        for name in names:
            if name in reserved:
                continue
            chosen = self._declared(name)
            if "ignore" in chosen or (not chosen and name in self.aside):
                roles.ignored.append(name)
            elif not chosen:
                roles.open.append(name)
            else:
                roles.numeric.extend([name] if "numeric" in chosen else [])
                roles.categorical.extend([name] if "categorical" in chosen else [])
        return roles

    def _declared(self, name: str) -> set[str]:
        """Return the lists that name a column: in full, else by a pattern."""
        lists = {
            "numeric": [*self.numeric, *self.log1p, *self.dates],
            "categorical": self.categorical,
            "ignore": self.ignore,
        }
        exact = {what for what, names in lists.items() if name in names}
        return exact or {what for what, names in lists.items() if any(fnmatchcase(name, n) for n in names)}


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a name or a pattern stands for."""
    names = list(names)
    return [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]


def in_order(values: Iterable[str]) -> list[str]:
    """Sort values as numbers if all of them are integers, else as text."""
    values = list(values)
    try:
        return sorted(values, key=lambda value: (int(value), value))
    except ValueError:
        return sorted(values)
