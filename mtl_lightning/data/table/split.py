"""Which rows of one table are for training, validation and test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.data.base import Split
from mtl_lightning.data.seeding import mixed_seed
from mtl_lightning.encoding.cells import CellError, is_text, numbers, texts
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SPELLINGS = {
    "train": 0, "training": 0, "tr": 0,
    "val": 1, "valid": 1, "validation": 1, "dev": 1, "development": 1,
    "test": 2, "testing": 2, "te": 2, "eval": 2, "evaluation": 2,
}  # fmt: skip
NONE = -1  # a row of no split
_SHARE = re.compile(r"(\d*\.?\d+)\s*(%?)\s*of\s+train")  # 0.1 of train, 10 % of train
_TIME = "a number or a time such as 2024-01-31T12:00"


@dataclass(frozen=True)
class TableSplit(Ranged):
    """Says which rows are in which split: by chance, by time, or by a column that says so.

    ::

        split: {fractions: [0.8, 0.1, 0.1]}                      # by chance
        split: {fractions: [0.8, 0.1, 0.1], group: user}         # no user in two splits
        split: {fractions: [0.8, 0.1, 0.1], stratify: bought}    # the same shares of its values in all splits
        split: {time: date}                                      # first 80 % train, next 10 % validation, last test
        split: {time: date, bounds: [2024-01-01, 2024-03-01]}    # before, from the first on, from the second on
        split: {column: fold}                                    # its values are train, val and test

    Args:
        fractions: the shares of the rows in training, validation and test. By chance they are met to a row, with
            ``group`` as nearly as the sizes of the groups allow; by time, rows of the same time stay together.
        group: a column; rows that share its value stay together. A row where it is missing stands alone.
        stratify: a column; each of its values, and a missing one, is divided by itself. With ``group`` a group counts
            as the most frequent value in it.
        time: a column of numbers, or of dates and times as ISO 8601 writes them; later rows are for later splits.
        bounds: the times at which validation and test begin, in place of ``fractions``.
        column: a column with ``train``, ``val`` (or ``valid``, ``validation``, ``dev``) and ``test``; rows where it is
            missing are left out.

    Raises:
        ConfigurationError: for fractions that are no shares of 1, and for arguments that do not go together.
    """

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    group: str | None = None
    stratify: str | None = None
    time: str | None = None
    bounds: list[float | str] | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        fractions = tuple(self.fractions)
        if len(fractions) != 3 or abs(sum(fractions) - 1) > 1e-6:
            raise ConfigurationError(
                f"Split: expected as `fractions` the shares of training, validation and test, which sum to 1, found "
                f"{list(fractions)}."
            )
        ways = {"column": self.column, "time": self.time, "group or stratify": self.group or self.stratify}
        if len(chosen := [way for way, given in ways.items() if given is not None]) > 1:
            raise ConfigurationError(f"Split: expected one way to split, found {' and '.join(chosen)}.")
        if self.bounds is not None and (self.time is None or len(self.bounds) != 2):
            raise ConfigurationError(
                f"Split: expected as `bounds` the two times at which validation and test begin, together with `time`, "
                f"found bounds={self.bounds} and time={self.time!r}."
            )
        seconds = [_seconds(bound) for bound in self.bounds or []]
        if None in seconds or seconds != sorted(seconds, key=lambda time: time or 0.0):
            raise ConfigurationError(
                f"Split: expected as `bounds` two times, {_TIME}, in their order, found {self.bounds}."
            )

    @property
    def columns(self) -> list[str]:
        """The columns that it looks at."""
        return [name for name in (self.group, self.stratify, self.time, self.column) if name is not None]

    def without(self, elsewhere: Sequence[bool]) -> TableSplit:
        """Return the split whose fractions are those of the rows that are left.

        Args:
            elsewhere: whether training, validation and test have rows of their own.

        Raises:
            ConfigurationError: if nothing is left.
        """
        shares = np.where(elsewhere, 0.0, self.fractions)
        if shares.sum() == 0:
            raise ConfigurationError(
                f"Expected `path` to give a split that has no path of its own, found fractions {list(self.fractions)}. "
                "Remove `path`, or give other fractions."
            )
        first, second, third = (shares / shares.sum()).tolist()
        return replace(self, fractions=(first, second, third))

    def assign(self, table: Any, seed: int, missing: Sequence[str] = ()) -> NDArray[np.int8]:
        """Return the split of each row (N,): 0 training, 1 validation, 2 test, -1 none.

        Args:
            table: an Arrow table (N rows) with its :attr:`columns`.
            seed: of the chance.
            missing: spellings of missing values.

        Raises:
            CellError: for a time that is none, or another name of a split.
        """
        if self.column is not None:
            return _named(table.column(self.column), self.column, missing)
        if self.time is not None:
            return self._by_time(table.column(self.time), missing)
        random = np.random.default_rng(mixed_seed(seed, "split"))
        rows = table.num_rows
        units = (
            np.arange(rows)
            if self.group is None
            else _alone(_in_order_met(texts(table.column(self.group), missing)[0]))
        )
        strata = np.zeros(rows, dtype=np.int64)
        if self.stratify is not None:
            strata = _in_order_met(texts(table.column(self.stratify), missing)[0]) + 1
        return self._by_chance(units, strata, random)

    def _by_chance(
        self, units: NDArray[np.int64], strata: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int8]:
        """Divide whole units (N,), within each stratum (N,) by itself."""
        number = int(units.max(initial=-1)) + 1
        sizes = np.bincount(units, minlength=number)
        kinds = int(strata.max(initial=0)) + 1
        stratum = np.zeros(number, dtype=np.int64)
        if kinds > 1:  # of each unit its most frequent stratum: the last of its pairs when these are sorted by count
            pairs, counts = np.unique(units * kinds + strata, return_counts=True)
            by_count = np.argsort(counts, kind="stable")
            stratum[pairs[by_count] // kinds] = pairs[by_count] % kinds
        split_of_unit = np.zeros(number, dtype=np.int8)
        for kind in np.unique(stratum):
            members = random.permutation(np.flatnonzero(stratum == kind))
            middle = np.cumsum(sizes[members]) - sizes[members] / 2
            ends = np.round(np.cumsum(self.fractions)[:2] * sizes[members].sum())
            split_of_unit[members] = np.searchsorted(ends, middle, side="right")
        return split_of_unit[units]

    def _by_time(self, column: Any, missing: Sequence[str]) -> NDArray[np.int8]:
        times = _times(column, missing, str(self.time))
        if self.bounds is not None:
            bounds = [cast("float", _seconds(bound)) for bound in self.bounds]
        else:
            ends = np.round(np.cumsum(self.fractions)[:2] * len(times)).astype(int)
            bounds = [*np.append(np.sort(times), np.inf)[np.minimum(ends, len(times))]]
        return np.searchsorted(np.array(bounds), times, side="right").astype(np.int8)


def shares_of_train(paths: Mapping[str, Any], split: TableSplit) -> tuple[dict[Any, Any], TableSplit]:
    """Return paths and their split with ``val`` or ``test`` that are a share of the training rows, "0.1 of train".

    The files of training then stand under ``path``, which is divided.

    Args:
        paths: by ``path`` and the names of the splits; None where there is none.
        split: how ``path`` is divided.

    Raises:
        ConfigurationError: for shares that leave nothing, without files for training, or beside another way to split.
    """
    found = {name: _SHARE.fullmatch(str(paths[name]).strip()) for name in SPLITS if paths[name] is not None}
    shares = {name: float(m[1]) / (100 if m[2] else 1) for name, m in found.items() if m is not None}
    if not shares:
        return dict(paths), split
    left = 1 - sum(shares.values())
    alone = "train" in found and "train" not in shares and paths["path"] is None
    if not alone or split.column is not None or split.bounds is not None or not 0 < left < 1:
        name = next(iter(shares))
        raise ConfigurationError(
            f"`{name}: {paths[name]}`: expected shares that leave rows of files given as `train`, without a `path` and "
            f"without `column` or `bounds` in `split`, found train={paths['train']!r} and path={paths['path']!r}. Give "
            "`train`, and smaller shares."
        )
    fractions = (left, shares.get("val", 0.0), shares.get("test", 0.0))
    moved: dict[Any, Any] = {**paths, "path": paths["train"], **dict.fromkeys(["train", *shares])}
    return moved, replace(split, fractions=fractions)


def without_rows(split: Split, source: str) -> str:
    """Return what to do about a split without rows.

    Args:
        split: which one.
        source: the argument that should give its rows: ``path``, or the split's own.
    """
    if split == "train":
        return "Give files as `train`, or a larger share of `path` in `split`."
    if source == "path":
        shares = "`split: {fractions: [0.8, 0.1, 0.1]}`, or rows that `column` names so"
        return (
            f"Give files as `{split}`, a share of the training files (`{split}: 0.1 of train`) or of `path` ({shares})."
        )
    return f"Give other files as `{split}`."


def _in_order_met(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number codes (N,) by their first rows, so that the same chance falls alike however a column is stored."""
    first = np.full(codes.max(initial=-1) + 2, -1, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of several rows the first is written last
    ranks = np.empty(len(first), dtype=np.int64)
    ranks[np.argsort(first[:-1])] = np.arange(len(first) - 1)
    ranks[-1] = -1  # a missing one
    return ranks[codes]


def _alone(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give each row without a value a code of its own."""
    without = codes < 0
    return np.where(without, codes.max(initial=-1) + np.cumsum(without), codes)


def _named(column: Any, name: str, missing: Sequence[str]) -> NDArray[np.int8]:
    indices, values = texts(column, missing)
    found = [_SPELLINGS.get(value.lower(), NONE - 1) for value in values]
    if NONE - 1 in found:
        row = int((indices == found.index(NONE - 1)).argmax())
        raise CellError(
            f"column {name!r}: expected the name of a split, 'train', 'val' or 'test', found {values[indices[row]]!r}",
            row,
        )
    return np.array([*found, NONE], dtype=np.int8)[indices]


def _times(column: Any, missing: Sequence[str], name: str) -> NDArray[np.float64]:
    """Read times (N,) as numbers, or as seconds since 1970."""
    try:
        times = numbers(column, missing)
    except CellError as error:
        if not is_text(column):
            raise
        indices, values = texts(column, missing)
        parsed = [_seconds(value) for value in values]
        if None in parsed:
            row = int((indices == parsed.index(None)).argmax())
            raise CellError(f"column {name!r}: expected {_TIME}, found {values[indices[row]]!r}", row) from error
        times = np.array([*parsed, np.nan], dtype=np.float64)[indices]
    if np.isnan(times).any():
        raise CellError(f"column {name!r}: expected a time in every row, found none", int(np.isnan(times).argmax()))
    return times


def _seconds(time: float | str) -> float | None:
    """Return a time as a number: itself, or an ISO 8601 time as seconds since 1970 (UTC unless it says otherwise)."""
    try:
        return float(time)
    except ValueError:
        pass
    try:
        parsed = datetime.fromisoformat(str(time).replace("Z", "+00:00"))
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()


def table_of(batches: Sequence[Any], names: Sequence[str]) -> Any:
    """Put record batches together; without any, an empty table with columns of text."""
    if not batches:
        return pa.table({name: pa.array([], pa.string()) for name in names})
    return pa.Table.from_batches(batches)
