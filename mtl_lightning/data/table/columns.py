"""What a user declares of a table's columns, and what follows from it for the columns that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mtl_lightning.data.table.date_column import DateColumn
from mtl_lightning.data.table.kind_columns import ListColumn, TextColumn
from mtl_lightning.data.table.target_column import TargetColumn
from mtl_lightning.encoding.notation import BOOLS, ISO, ISO_DATES, PLAIN, USUAL, Notation, declared
from mtl_lightning.names import did_you_mean, listed
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

USUAL_MISSING = ("NA", "N/A", "null", "NULL", "None", "NaN", "nan", "-", "#N/A")
"""What R, SQL, Python, pandas and spreadsheets write for a missing value."""


class ColumnRoles(NamedTuple):
    """The columns that a table has, by what they are for; ``open`` ones are yet to be guessed."""

    numeric: list[str]
    categorical: list[str]
    open: list[str]
    ignored: list[str]
    kinds: dict[str, list[str]]  # by the argument that names them: columns of other kinds


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
        only_where: by task ``{column or task: values}``, where alone its labels count
            (:func:`~mtl_lightning.data.table.conditions.declared_conditions`).
        ids: columns that travel along with the rows, features only if they are declared as such.
        weights: the column of sample weights of all tasks, or ``{task: column}``.
        log1p: numeric columns of which sign(x) log(1 + abs(x)) is taken, for amounts with a long tail; they need not
            be in ``numeric`` too.
        missing_values: what stands for a missing value, beside empty fields, null, nan and the usual marks.
        usual_missing: whether ``NA``, ``N/A``, ``null``, ``NULL``, ``None``, ``NaN``, ``nan``, ``-`` and ``#N/A`` stand
            for a missing value; or those of them, or others, that do.
        min_count: a category, or a bucket, with fewer training rows than this counts as unseen; for all columns, or
            by column.
        hashed: columns of ids, each with the number of buckets that they are hashed into.
        lists: columns of lists of categories.
        vectors: columns of lists of numbers, all of one length, with what separates them in texts; None for JSON.
        text: columns of free text.
        share: columns that have one vocabulary, or one set of buckets, and their embeddings in common, by the name of
            these; those that are not declared otherwise are categories, or hashed where another one of them is.
        thousands: what sets groups of three digits apart in numbers, such as ``","``; where nothing is declared, what
            all cells of a column agree in.
        decimal: what stands before the fraction, such as ``","``; likewise.
        dates: columns of dates and times as ISO 8601 writes them; or ``{column: format}``, as of
            ``datetime.strptime``, or :class:`DateColumn`. They become seconds since 1970, and parts of the calendar.
        buckets: columns of numbers, each with the number of equal shares of the training rows that it is divided into;
            the share is a category, beside the number.
    """

    targets: Mapping[str, TargetColumn]
    numeric: Sequence[str] = ()
    categorical: Sequence[str] = ()
    ignore: Sequence[str] = ()
    aside: Sequence[str] = ()
    weights: str | Mapping[str, str] | None = None
    only_where: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    ids: Sequence[str] = ()
    log1p: Sequence[str] = ()
    missing_values: Sequence[str] = ()
    usual_missing: bool | Sequence[str] = True
    min_count: int | Mapping[str, int] = 1
    thousands: str | None = None
    decimal: str | None = None
    dates: Sequence[str] | Mapping[str, str | DateColumn] = ()
    buckets: Mapping[str, int] = field(default_factory=dict)
    hashed: Mapping[str, int] = field(default_factory=dict)
    lists: Mapping[str, ListColumn] = field(default_factory=dict)
    vectors: Mapping[str, str | None] = field(default_factory=dict)
    text: Mapping[str, TextColumn] = field(default_factory=dict)
    share: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, list[str]]:
        """The arguments that name columns of other kinds than numbers and categories, each with its columns."""
        return {"hashed": [*self.hashed], "lists": [*self.lists], "vectors": [*self.vectors], "text": [*self.text]}

    def shared(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return which of a table's columns have their embeddings in common, by the name of the table of these.

        Raises:
            ConfigurationError: for a column that is in two of them.
        """
        found = {g: [*dict.fromkeys(n for p in wanted for n in matching(p, names))] for g, wanted in self.share.items()}
        every = [name for group in found.values() for name in group]
        if twice := [name for name in every if every.count(name) > 1]:
            raise ConfigurationError(f"`share`: expected a column in one group, found {twice[0]!r} in several.")
        return found

    def buckets_of(self, name: str, own: int | None = None) -> int | None:
        """Return how many buckets a column is hashed into: by itself, or with those that it shares embeddings with."""
        found: int | None = chosen_for(self.hashed, name, own)
        if found is not None:
            return found
        group = next((one for one in self.share.values() if any(fnmatchcase(name, p) for p in one)), ())
        sizes = [chosen_for(self.hashed, other) for other in group]
        sizes += [one.buckets for other in group if (one := chosen_for(self.lists, other)) is not None]
        return next((size for size in sizes if size is not None), None)

    def least(self, name: str) -> int:
        """Return the number of training rows that a category of a column needs."""
        if isinstance(self.min_count, int):
            return self.min_count
        together = next((one for one in self.share.values() if any(fnmatchcase(name, p) for p in one)), ())
        found: list[int] = [chosen_for(self.min_count, one, 1) for one in (name, *together)]
        return max(found)  # of one vocabulary

    @property
    def missing(self) -> tuple[str, ...]:
        """All that stands for a missing value, beside empty fields, null and nan."""
        usual = self.usual_missing
        marks = (USUAL_MISSING if usual else ()) if isinstance(usual, bool) else usual
        return tuple(dict.fromkeys((*marks, *self.missing_values)))

    def notations(self, name: str) -> Sequence[Notation]:
        """Return how the texts of a column may spell numbers, the likelier ways first."""
        if self._date(name) is not None:
            return (self.date(name).notation,)
        wanted = declared(self.thousands, self.decimal)
        return USUAL if wanted is None else tuple(dict.fromkeys((wanted, PLAIN, BOOLS, ISO_DATES)))

    def date(self, name: str) -> DateColumn:
        """Return what is declared of a column of dates; nothing by default."""
        found = self._date(name)
        return found if isinstance(found, DateColumn) else DateColumn(format=found)

    def _date(self, name: str) -> str | DateColumn | None:
        dates = self.dates if isinstance(self.dates, Mapping) else dict.fromkeys(self.dates, ISO)
        found: str | DateColumn | None = chosen_for(dates, name)
        return found

    def _since(self) -> list[str]:
        """Return the columns of dates that others are counted from."""
        dates = self.dates.values() if isinstance(self.dates, Mapping) else ()
        return [date.since for date in dates if isinstance(date, DateColumn) and date.since is not None]

    def target_columns(self) -> dict[str, str]:
        """Return the column of each task's target."""
        return {task: target.column or task for task, target in self.targets.items()}

    def condition_columns(self) -> list[str]:
        """Return the columns that say where labels count, other than those of tasks."""
        names = (name for conditions in self.only_where.values() for name in conditions)
        return [*dict.fromkeys(name for name in names if name not in self.targets)]

    def set_aside(self) -> dict[str, str]:
        """Return the columns that are features only if they are declared as such, and what else they are for."""
        targets = self.targets.items()
        return {
            **{t.exposure: f"exposure of {task}" for task, t in targets if t.exposure is not None},
            **{t.minus: f"taken from {t.column or task}" for task, t in targets if t.minus is not None},
            **dict.fromkeys(self.condition_columns(), "says where labels count"),
            **dict.fromkeys(self.ids, "travels along"),
            **dict.fromkeys(self.aside, "divides the rows"),
        }

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
        targets = set(self.target_columns().values()) | {t.event for t in self.targets.values() if t.event is not None}
        aside, patterns = self.set_aside(), (*_PATTERNS, *self.kinds)
        for what, wanted in {
            "numeric": self.numeric,
            "categorical": self.categorical,
            "ignore": self.ignore,
            "log1p": self.log1p,
            "dates": [*self.dates],
            "buckets": [*self.buckets],
            "since": self._since(),
            "min_count": [] if isinstance(self.min_count, int) else [*self.min_count],
            **self.kinds,
            **{f"share.{group}": wanted for group, wanted in self.share.items()},
            "targets": sorted(targets),
            "weights": self.weight_columns(),
            "ids": self.ids,
            "only_where": self.condition_columns(),
            **{f"targets.{task}": [t.exposure or t.minus] for task, t in self.targets.items() if t.exposure or t.minus},
        }.items():
            for name in wanted:
                if not (matching(name, names) if what.partition(".")[0] in patterns else name in names):
                    raise ConfigurationError(
                        f"Expected columns among {listed(names)}, found {name!r} in `{what}`."
                        f"{did_you_mean(name, names)}"
                    )
        reserved = targets | {*self.weight_columns()}
        others = [name for named in (*self.kinds.values(), *self.share.values()) for name in named]
        features = [*self.numeric, *self.categorical, *self.log1p, *self.buckets, *self._since(), *others]
        if leaks := [name for name in features if name in reserved]:
            raise ConfigurationError(
                f"Column {leaks[0]!r} holds a target or a weight, found it among the features: the network would be "
                "shown the answer. Take it out of `numeric`, `categorical`, `log1p` and the other kinds of columns."
            )
        together = {name for group in self.shared(names).values() for name in group}
        roles = ColumnRoles([], [], [], [], {what: [] for what in self.kinds})
        for name in names:
            if name in reserved:
                continue
            chosen = self._declared(name)
            if name in together and not chosen & {*_CODES, "ignore"}:
                chosen = chosen | {"hashed" if self.buckets_of(name) is not None else "categorical"}
            elif name in together and "categorical" in chosen and self.buckets_of(name) is not None:
                chosen = chosen - {"categorical"} | {"hashed"}
            if "ignore" in chosen or (not chosen and name in aside):
                roles.ignored.append(name)
            elif not chosen:
                roles.open.append(name)
            else:
                self._refuse_both(name, chosen)
                for what in roles.kinds.keys() & chosen:
                    roles.kinds[what].append(name)
                roles.numeric.extend([name] if "numeric" in chosen else [])
                roles.categorical.extend([name] if "categorical" in chosen else [])
        return roles

    def _declared(self, name: str) -> set[str]:
        """Return the lists that name a column: in full, else by a pattern."""
        lists = {
            "numeric": [*self.numeric, *self.log1p, *self.dates, *self.buckets],
            "categorical": self.categorical,
            "ignore": self.ignore,
            **self.kinds,
        }
        exact = {what for what, names in lists.items() if name in names}
        return exact or {what for what, names in lists.items() if any(fnmatchcase(name, n) for n in names)}

    @staticmethod
    def _refuse_both(name: str, chosen: set[str]) -> None:
        """Refuse a column that is to be codes in several ways."""
        if len(both := sorted(chosen & {*_CODES})) > 1:
            raise ConfigurationError(
                f"Column {name!r}: expected one of `{'`, `'.join(_CODES)}`, found it in `{'` and `'.join(both)}`. "
                "Take it out of all but one."
            )


_CODES = ("categorical", "hashed", "lists", "text", "vectors")  # of which a column may be one


def chosen_for(options: Mapping[str, Any], name: str, otherwise: Any = None) -> Any:
    """Return what is declared for a column: under its full name, else under the first pattern that it matches."""
    if name in options:
        return options[name]
    return next((option for pattern, option in options.items() if fnmatchcase(name, pattern)), otherwise)


_PATTERNS = (
    "numeric",
    "categorical",
    "ignore",
    "log1p",
    "dates",
    "buckets",
    "min_count",
    "share",
)  # lists in which a name may be a pattern


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
