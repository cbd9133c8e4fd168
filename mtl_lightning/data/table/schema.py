"""Fits what must be known of a table on its training rows, a piece of the table at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from mtl_lightning.data.table.columns import ColumnRoles, TableColumns, in_order, matching
from mtl_lightning.data.table.guess import Guess, guess_feature, outweighed
from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.kinds.declared import declared_fitters
from mtl_lightning.data.table.kinds.derived import derived_features, since_fitters
from mtl_lightning.data.table.kinds.guessed import Guessed, by_texts, by_type
from mtl_lightning.data.table.kinds.sharing import unite
from mtl_lightning.data.table.label_fitter import LabelFitter, update
from mtl_lightning.data.table.profile import Kind, Profile
from mtl_lightning.data.table.quantiles import bounds as bounds_between
from mtl_lightning.data.table.readings import Locate
from mtl_lightning.data.table.words import refuse_spoiled
from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.kinds import kinds_of
from mtl_lightning.encoding.moments import logarithmic
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
    column, whose codes are 1, 2, ... in this order, ``kinds`` the features of other kinds, where there are any
    (:mod:`mtl_lightning.encoding.kinds`), ``ranges`` the smallest and the largest number by column, ``targets`` what
    :class:`TableEncoder` needs by task, ``reads`` how the cells of a column are spelled that are not plain,
    ``missing_values`` all that stands for a missing value, ``missing`` their number by column, ``guessed`` and
    ``ignored`` the reasons by column, ``doubts`` what else a column may be.

    Args:
        columns: what is declared of the columns.
    """

    def __init__(self, columns: TableColumns) -> None:
        self.columns = columns
        self._rows = 0
        self._names: list[str] = []
        self._roles: ColumnRoles | None = None
        self._numeric: dict[str, Profile] = {}
        self._categorical: dict[str, Profile] = {}
        self._open: dict[str, Profile] = {}
        self._kinds: dict[str, KindFitter] = {}  # by feature
        self._labels = LabelFitter(columns)
        self._guessed: dict[str, Guess] = {}
        self._of_other_kinds: dict[str, Guessed] = {}

    def needed(self, names: Iterable[str]) -> dict[str, Literal["number", "text"]]:
        """Return which columns :meth:`update` will look at, of a table that has columns ``names``; and as what they
        are best read from a text file. To be asked before the first update, where this does not see all columns.

        Raises:
            ConfigurationError: if the declaration does not fit the columns.
        """
        names = list(names)
        roles = self._roles or self._begin(names)
        of_targets = self._labels.needed()
        wanted = {
            **{
                name: "number" for fitter in self._kinds.values() if fitter.reads == "number" for name in fitter.columns
            },
            **dict.fromkeys(roles.numeric, "number"),
            **{name: kind for name, kind in of_targets.items() if kind == "number"},
            **dict.fromkeys((*roles.categorical, *roles.open), "text"),
            **{name: "text" for fitter in self._kinds.values() if fitter.reads == "text" for name in fitter.columns},
            **{name: kind for name, kind in of_targets.items() if kind != "number"},
        }
        return {name: kind for name in names if (kind := _as(wanted.get(name))) is not None}

    def update(self, batch: Any, locate: Locate | None = None) -> None:
        """Add training rows: an Arrow record batch or table with at least the columns that are :meth:`needed`.

        Args:
            batch: the rows (N).
            locate: says where a row of the batch is, in an error; by default its number among all rows.

        Raises:
            ConfigurationError: if the declaration does not fit the columns.
            CellError: for a column of lists and the like.
        """
        if self._roles is None:
            self._begin(batch.schema.names)
        before = self._rows
        self._rows += batch.num_rows
        if not before:
            self._look_at_types(batch)
        locate = locate or (lambda row: f"row {before + row + 1}")
        for profiles in (self._numeric, self._categorical, self._open):
            for name, profile in profiles.items():
                update(profile, batch, name, locate)
        for fitter in self._kinds.values():
            with _of(fitter.columns[0]):
                fitter.update(tuple(batch.column(name) for name in fitter.columns), locate)
        self._labels.update(batch, locate)

    def _look_at_types(self, batch: Any) -> None:
        """Take columns of Arrow's lists for what they are."""
        for name in [*self._open]:
            if (found := by_type(self.columns, name, batch.column(name).type)) is not None:
                del self._open[name]
                self._kinds[name], self._of_other_kinds[name] = found.fitter, found

    def _begin(self, names: list[str]) -> ColumnRoles:
        columns = self.columns
        self._roles, self._names = columns.roles(names), names
        roles = self._roles
        logarithmic = {name for pattern in columns.log1p for name in matching(pattern, names)}
        self._numeric = {name: self._profile("number", name, name in logarithmic) for name in roles.numeric}
        self._categorical = {name: self._profile("category", name) for name in roles.categorical}
        self._open = {name: self._profile(None, name) for name in roles.open}
        self._kinds = declared_fitters(columns, roles.kinds)
        self._kinds |= {fitter.feature: fitter for fitter in since_fitters(columns, roles.numeric)}
        return roles

    def _profile(self, kind: Kind | None, name: str, log1p: bool = False) -> Profile:
        return Profile(kind, frozenset(self.columns.missing), log1p, self.columns.notations(name))

    def finish(self) -> dict[str, Any]:
        """Return the schema, as plain data.

        Raises:
            DataError: if there were no training rows, or a target has no labels or a single class.
            ConfigurationError: if there is no column to learn from.
        """
        if self._roles is None or not self._rows:
            raise DataError("The training split: expected rows, found none.")
        guessed, doubts = self._guess()
        numeric, categorical = (self._of_kind(kind) for kind in ("number", "category"))
        aside = self.columns.set_aside()
        ignored = {name: aside.get(name, "declared") for name in self._roles.ignored} | {
            name: guess.why for name, guess in guessed.items() if guess.kind is None
        }
        groups = self.columns.shared(self._names)
        counts = {name: profile.categories() for name, profile in categorical.items()}
        counts = unite(groups, counts, self._kinds)
        kinds = {name: fitter.known() for name, fitter in self._kinds.items()}
        kinds |= derived_features(self.columns, numeric)
        if not numeric and not categorical and not kinds:
            raise ConfigurationError(f"Expected columns to learn from, found none: {ignored or 'only targets'}.")
        vocabularies = {name: self._vocabulary(name, met) for name, met in counts.items()}
        shared = {name: group for group, names in groups.items() for name in names if name in vocabularies}
        quantiles = {name: found for name, profile in numeric.items() if (found := _quantiles(profile))}
        known = {"kinds": kinds, "missing_values": self.columns.missing}
        spec = _spec([*numeric], vocabularies, quantiles, known, shared)
        targets = self._labels.finish(doubts)
        return {
            "input_spec": input_spec_to_dict(spec),
            "rows": self._rows,
            "missing_values": list(self.columns.missing),
            "numeric": {name: {**_moments(profile), "log1p": profile.log1p} for name, profile in numeric.items()},
            "categorical": vocabularies,
            **({"kinds": kinds} if kinds else {}),
            "ranges": {name: _range(profile) for name, profile in numeric.items() if profile.reading.parsed},
            "reads": self._reads(),
            "missing": {name: absent for name, absent in self._absent().items() if absent},
            "guessed": {name: guess.why for name, guess in guessed.items() if guess.kind is not None}
            | {name: found.why for name, found in self._of_other_kinds.items()},
            "doubts": doubts,
            "ignored": ignored,
            "targets": targets,
            "weights": self.columns.weights if isinstance(self.columns.weights, str) else self._weights_by_task(),
        }

    def _guess(self) -> tuple[dict[str, Guess], dict[str, str]]:
        """Refuse columns that some cells spoil; say what the open ones are, and of which this is doubtful."""
        for name, profile in (*self._numeric.items(), *self._open.items()):
            if profile.is_spoiled:
                refuse_spoiled(name, profile, f"declare the column: `categorical: [{name}]`")
        self._guessed = {name: guess_feature(name, profile) for name, profile in self._open.items()}
        for name, guess in [*self._guessed.items()]:
            repeats = guess.kind == "category"
            if guess.kind != "number" and (found := by_texts(self.columns, name, self._open[name], repeats=repeats)):
                self._kinds[name], self._of_other_kinds[name] = found.fitter, found
                del self._guessed[name]
        doubts = {name: doubt for name, profile in self._numeric.items() if (doubt := outweighed(profile))}
        doubts |= {name: found.doubt for name, found in self._of_other_kinds.items() if found.doubt}
        return self._guessed, doubts | {name: guess.doubt for name, guess in self._guessed.items() if guess.doubt}

    def _of_kind(self, kind: Kind) -> dict[str, Profile]:
        """Return the features of a kind: the declared ones, then the guessed ones."""
        declared = self._numeric if kind == "number" else self._categorical
        return declared | {name: self._open[name] for name, guess in self._guessed.items() if guess.kind == kind}

    def _profiles(self) -> dict[str, Profile]:
        """Return the profiles by column; of a column with several, one that has looked at it as numbers."""
        return {**self._categorical, **self._numeric, **self._open, **self._labels.profiles()}

    def _absent(self) -> dict[str, int]:
        features = {**self._categorical, **self._numeric, **self._open}
        absent = {name: profile.absent for name, profile in features.items()} | self._labels.absent()
        return {fitter.columns[0]: fitter.absent for fitter in self._kinds.values()} | absent

    def _reads(self) -> dict[str, dict[str, Any]]:
        """Return how the cells of a column are spelled, where they are not plain."""
        found = {name: profile.notation for name, profile in self._profiles().items()}
        return {name: notation.to_dict() for name, notation in found.items() if notation is not None}

    def _weights_by_task(self) -> dict[str, str] | None:
        weights = self.columns.weights
        return dict(weights) if isinstance(weights, Mapping) else None

    def _vocabulary(self, name: str, met: Mapping[str, int]) -> list[str]:
        least = self.columns.least(name)
        return in_order(value for value, count in met.items() if count >= least)


def what_matters(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a schema by which columns and targets are encoded, without what was met and said of them."""
    known = [key for key in ("numeric", "categorical", "kinds", "reads", "weights") if key in schema]
    targets = {
        task: {key: value for key, value in target.items() if key not in ("guessed", "counts")}
        for task, target in schema["targets"].items()
    }
    order = [*schema["numeric"], *schema["categorical"], *schema.get("kinds", ())]
    return {**{key: schema[key] for key in known}, "targets": targets, "order": order}


def _spec(
    numeric: list[str],
    vocabularies: Mapping[str, list[str]],
    quantiles: Mapping[str, list[float]],
    schema: Mapping[str, Any],
    shared: dict[str, str],
) -> TableSpec:
    """Return what the network is given, in the order of the encoder.

    Raises:
        ConfigurationError: for two features of one name.
    """
    categorical = {name: len(values) + 1 for name, values in vocabularies.items()}
    lists: dict[str, tuple[int, int]] = {}
    for kind in kinds_of(schema).values():
        there = numeric if kind.block == "numeric" else [*categorical, *lists]
        if twice := [name for name in kind.names if name in there]:
            raise ConfigurationError(
                f"Feature {twice[0]!r} of column {kind.columns[0]!r}: expected names that differ, found another "
                "feature of this name. Rename the column, or leave out one of the two."
            )
        if kind.block == "numeric":
            numeric += kind.names
        elif kind.block == "categorical":
            categorical |= kind.codes
        else:
            lists[kind.feature] = (kind.codes[kind.feature], kind.width)
        shared |= dict.fromkeys(kind.codes, kind.shared) if kind.shared is not None else {}
    bounds = {name: tuple(found) for name, found in quantiles.items()}
    return TableSpec(tuple(numeric), categorical, lists, shared, bounds)


def _as(kind: str | None) -> Literal["number", "text"] | None:
    return None if kind is None else "number" if kind == "number" else "text"


def _moments(profile: Profile) -> dict[str, float]:
    moments = profile.reading.moments.finish()
    return {"mean": moments.mean, "std": moments.std}


def _quantiles(profile: Profile) -> list[float]:
    """Return bounds between equal shares of a column's numbers, standardised as rows are, in float32."""
    found, moments = bounds_between(profile.reading.sample.finish()), _moments(profile)
    found = logarithmic(found) if profile.log1p else found
    standard: list[float] = np.unique(((found - moments["mean"]) / moments["std"]).astype(np.float32)).tolist()
    return standard


def _range(profile: Profile) -> list[float]:
    return [profile.reading.lowest[0], profile.reading.highest[0]]


@contextmanager
def _of(name: str) -> Iterator[None]:
    """Add the column's name to an error."""
    try:
        yield
    except CellError as error:
        raise CellError(f"column {name!r}: {error}", error.row) from error
