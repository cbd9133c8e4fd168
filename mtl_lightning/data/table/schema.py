"""Fits what must be known of a table on its training rows, a piece of the table at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mtl_lightning.data.table.cells import CellError
from mtl_lightning.data.table.columns import ColumnRoles, TableColumns, TargetColumn, in_order, listed, matching
from mtl_lightning.data.table.profile import Profile
from mtl_lightning.types import ConfigurationError, DataError, TableSpec, input_spec_to_dict


class TableFitter:
    """Fits a table's schema: kinds of columns, vocabularies, means and standard deviations, classes.

    It takes Arrow's record batches, so that a table need not fit into memory; what is kept is bounded by the number of
    different categories. The schema does not depend on how rows are cut into batches, nor on their order, but for
    rounding and for the guess that a column holds row numbers::

        fitter = TableFitter(TableColumns(targets={"price": TargetColumn()}))
        for batch in training_batches:
            fitter.update(batch)
        encoder = TableEncoder(fitter.finish())
        batch = encoder.encode(record_batch, targets=True)

    The schema is plain data. ``numeric`` has ``mean``, ``std`` and ``log1p`` by column, ``categorical`` the values by
    column, whose codes are 1, 2, ... in this order, ``targets`` what :class:`TableEncoder` needs by task, ``guessed``
    and ``ignored`` the reasons by column.

    Args:
        columns: what is declared of the columns.
    """

    def __init__(self, columns: TableColumns) -> None:
        self.columns = columns
        self._rows = 0
        self._roles: ColumnRoles | None = None
        self._numeric: dict[str, Profile] = {}
        self._categorical: dict[str, Profile] = {}
        self._open: dict[str, Profile] = {}
        self._targets: dict[str, Profile] = {}  # by task

    def needed(self, names: Iterable[str]) -> dict[str, Literal["number", "text"]]:
        """Return which columns :meth:`update` will look at, of a table that has columns ``names``; and as what they
        are best read from a text file. To be asked before the first update, where this does not see all columns.

        Raises:
            ConfigurationError: if the declaration does not fit the columns.
        """
        names = list(names)
        roles = self._roles or self._begin(names)
        columns = self.columns.target_columns()
        number = {
            *roles.numeric,
            *(columns[task] for task, profile in self._targets.items() if profile.kind == "number"),
        }
        text = {*roles.categorical, *roles.open}
        text |= {columns[task] for task, profile in self._targets.items() if profile.kind != "number"}
        return {name: "text" if name in text else "number" for name in names if name in number | text}

    def update(self, batch: Any) -> None:
        """Add training rows: an Arrow record batch or table with at least the columns that are :meth:`needed`.

        Raises:
            ConfigurationError: if the declaration does not fit the columns.
            CellError: for a cell that cannot be read; it knows its row in the batch.
        """
        if self._roles is None:
            self._begin(batch.schema.names)
        self._rows += batch.num_rows
        for profiles in (self._numeric, self._categorical, self._open):
            for name, profile in profiles.items():
                _update(profile, batch, name)
        for task, profile in self._targets.items():
            _update(profile, batch, self.columns.target_columns()[task])

    def _begin(self, names: list[str]) -> ColumnRoles:
        columns, missing = self.columns, frozenset(self.columns.missing_values)
        self._roles = roles = columns.roles(names)
        logarithmic = {name for pattern in columns.log1p for name in matching(pattern, names)}
        self._numeric = {name: Profile("number", missing, name in logarithmic) for name in roles.numeric}
        self._categorical = {name: Profile("category", missing) for name in roles.categorical}
        self._open = {name: Profile(None, missing) for name in roles.open}
        for task, target in columns.targets.items():
            if target.positive is not None or target.kind == "classes":
                self._targets[task] = Profile("category", missing)
            elif target.at_least is None:
                self._targets[task] = Profile(target.kind and "number", missing)
        return roles

    def finish(self) -> dict[str, Any]:
        """Return the schema, as plain data.

        Raises:
            DataError: if there were no training rows, or a target has no labels or a single class.
            ConfigurationError: if there is no column to learn from.
        """
        if self._roles is None or not self._rows:
            raise DataError("The training split: expected rows, found none.")
        guessed: dict[str, str] = {}
        ignored = {
            name: "divides the rows" if name in self.columns.aside else "declared" for name in self._roles.ignored
        }
        numeric, categorical = dict(self._numeric), dict(self._categorical)
        for name, profile in self._open.items():
            kind, why = profile.guess()
            if kind is None:
                ignored[name] = why
                continue
            guessed[name] = why
            (numeric if kind == "number" else categorical)[name] = profile
        if not numeric and not categorical:
            raise ConfigurationError(f"Expected columns to learn from, found none: {ignored or 'only targets'}.")
        vocabularies = {name: self._vocabulary(profile) for name, profile in categorical.items()}
        spec = TableSpec(tuple(numeric), {name: len(values) + 1 for name, values in vocabularies.items()})
        return {
            "input_spec": input_spec_to_dict(spec),
            "rows": self._rows,
            "missing_values": list(self.columns.missing_values),
            "numeric": {
                name: {"mean": p.moments.mean, "std": p.moments.std, "log1p": p.log1p} for name, p in numeric.items()
            },
            "categorical": vocabularies,
            "guessed": guessed,
            "ignored": ignored,
            "targets": {task: self._target(task, target) for task, target in self.columns.targets.items()},
            "weights": self.columns.weights if isinstance(self.columns.weights, str) else self._weights_by_task(),
        }

    def _weights_by_task(self) -> dict[str, str] | None:
        weights = self.columns.weights
        return dict(weights) if isinstance(weights, Mapping) else None

    def _vocabulary(self, profile: Profile) -> list[str]:
        return in_order(value for value, count in profile.counts.items() if count >= self.columns.min_count)

    def _target(self, task: str, target: TargetColumn) -> dict[str, Any]:
        """Return what is known of a task's target: where it is, how it is read, its classes or its moments."""
        known: dict[str, Any] = {"column": target.column or task, "guessed": False}
        if target.positive is not None:
            self._expect_some(task, target.positive)
            return known | {"kind": "positive", "values": list(target.positive)}
        if target.at_least is not None:
            return known | {"kind": "at_least", "threshold": float(target.at_least)}
        profile = self._targets[task]
        kind = target.kind or profile.guess_target()
        known |= {"kind": kind, "guessed": target.kind is None}
        if kind == "number":
            if not profile.moments.count:
                raise DataError(f"Target {task!r}: expected numbers in the training split, found none.")
            return known | {"mean": profile.moments.mean, "std": profile.moments.std}
        if len(profile.counts) < 2:
            raise DataError(
                f"Target {task!r}: expected at least 2 classes in the training split, found {list(profile.counts)}."
            )
        return known | {"values": in_order(profile.counts)}

    def _expect_some(self, task: str, positive: list[str]) -> None:
        """Refuse values that no training row has, which would be a misspelling."""
        found = self._targets[task].counts
        if not found.keys() & {*positive}:
            raise DataError(
                f"Target {task!r}: expected some of {listed(positive)} in the training split, found {listed([*found])}."
            )


def _update(profile: Profile, batch: Any, name: str) -> None:
    try:
        profile.update(batch.column(name))
    except CellError as error:
        raise CellError(f"column {name!r}: {error}", error.row) from error


def described(schema: Mapping[str, Any]) -> str:
    """Say what columns a schema has, and what of it was guessed."""
    lines = [f"{schema['rows']} training rows"]
    for kind in ("numeric", "categorical"):
        names = [f"{name} ({schema['guessed'][name]})" if name in schema["guessed"] else name for name in schema[kind]]
        lines += [f"  {kind}: {', '.join(names)}"] if names else []
    if left_out := [f"{name} ({why})" for name, why in schema["ignored"].items()]:
        lines.append(f"  left out: {', '.join(left_out)}")
    for task, known in schema["targets"].items():
        lines.append(f"  target {task}: {_target_in_words(known)}" + (" (guessed)" if known["guessed"] else ""))
    return "\n".join(lines)


def _target_in_words(known: Mapping[str, Any]) -> str:
    if known["kind"] == "number":
        return f"a number, {known['mean']:.4g} in the mean, standard deviation {known['std']:.4g}"
    if known["kind"] == "at_least":
        return f"is {known['column']!r} at least {known['threshold']:g}?"
    if known["kind"] == "positive":
        return f"is {known['column']!r} among {listed(known['values'], 3)}?"
    return f"{len(known['values'])} classes, {listed(known['values'], 5)}"
