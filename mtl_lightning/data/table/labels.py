"""Cells of target columns as labels, alike for fitting and for encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.data.table.target_column import TargetColumn, as_text
from mtl_lightning.encoding.cells import CellError

YES_OR_NO = ("positive", "at_least", "is_missing")
AS_NUMBERS = ("number", "at_least", "count", "survival")  # kinds whose column is one of numbers


class Cells:
    """Reads the cells of a batch.

    Args:
        batch: an Arrow batch (N rows).
        numbers: gives a column as numbers (N,), nan where one is missing.
        texts: gives a column as of :func:`~mtl_lightning.encoding.cells.texts`.
    """

    def __init__(
        self,
        batch: Any,
        numbers: Callable[[Any, str], NDArray[np.float64]],
        texts: Callable[[Any, str], tuple[NDArray[np.int64], list[str]]],
    ) -> None:
        self.batch, self._numbers, self._texts = batch, numbers, texts

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as numbers (N,)."""
        return self._numbers(self.batch, name)

    def texts(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """Return a column as indices (N,) of its values, -1 where one is missing; and the values."""
        return self._texts(self.batch, name)


def question(target: TargetColumn, column: str) -> dict[str, Any]:
    """Return what a schema knows of a yes-or-no target, which nothing must be fitted for."""
    if target.positive is not None:
        return {"column": column, "kind": "positive", "values": [as_text(value) for value in target.positive]}
    if target.at_least is not None:
        return {"column": column, "kind": "at_least", "threshold": float(target.at_least)}
    return {"column": column, "kind": "is_missing"}


def answer(known: Mapping[str, Any], cells: Cells) -> NDArray[np.int64]:
    """Return a yes-or-no target (N,): 1, 0, or -1 where it is missing."""
    if known["kind"] == "at_least":
        found = cells.numbers(known["column"])
        return np.where(np.isnan(found), -1, found >= known["threshold"]).astype(np.int64)
    indices, values = cells.texts(known["column"])
    if known["kind"] == "is_missing":
        return (indices < 0).astype(np.int64)
    return np.array([*(int(value in known["values"]) for value in values), -1], dtype=np.int64)[indices]


def number(known: Mapping[str, Any], cells: Cells) -> NDArray[np.float64]:
    """Return a target of numbers (N,), nan where it is missing.

    Raises:
        CellError: for a logarithm of a number that is not positive.
    """
    column = known["column"]
    found = cells.numbers(column)
    if known.get("minus") is not None:
        return found - cells.numbers(known["minus"])
    if known.get("log"):
        refuse(found <= 0, found, f"column {column!r}: expected a number above 0, of which the logarithm is taken")
        return np.log(found)
    return found


def count(known: Mapping[str, Any], cells: Cells) -> NDArray[np.float64]:
    """Return counts (N,), or (N, 2) with their exposures; nan where either is missing.

    Raises:
        CellError: for a count below 0 or with a fraction, and for an exposure that is not above 0.
    """
    column, exposure = known["column"], known.get("exposure")
    found = cells.numbers(column)
    refuse((found < 0) | (found != np.floor(found)) & ~np.isnan(found), found, f"column {column!r}: {A_COUNT}")
    if exposure is None:
        return found
    over = cells.numbers(exposure)
    refuse(over <= 0, over, f"column {exposure!r}: expected an exposure above 0")
    both = np.stack([found, over], 1)
    return np.where(np.isnan(both).any(1, keepdims=True), np.nan, both)


def survival(known: Mapping[str, Any], cells: Cells) -> NDArray[np.float64]:
    """Return times, and whether the event was met then (N, 2): 1 or 0; nan where either is missing.

    Raises:
        CellError: for a time below 0, and for an event that is neither 0 nor 1.
    """
    times = cells.numbers(known["column"])
    refuse(times < 0, times, f"column {known['column']!r}: expected a time of at least 0")
    indices, values = cells.texts(known["event"])
    lower = [value.lower() for value in values]
    if odd := [place for place, value in enumerate(lower) if value not in _EVENTS]:
        row = int(np.isin(indices, odd).argmax())
        raise CellError(
            f"column {known['event']!r}: expected 1 (true) where the event was met and 0 (false) where it was not, "
            f"found {values[indices[row]]!r}",
            row,
        )
    events = np.array([*(_EVENTS[value] for value in lower), np.nan])[indices]
    both = np.stack([times, events], 1)
    return np.where(np.isnan(both).any(1, keepdims=True), np.nan, both)


def classes(known: Mapping[str, Any], cells: Cells) -> NDArray[np.int64]:
    """Return the numbers of classes, or levels, (N,); -1 where one is missing.

    Raises:
        CellError: for a class that is not among the known ones.
    """
    indices, values = cells.texts(known["column"])
    codes = {value: index for index, value in enumerate(known["values"])}
    if odd := [place for place, value in enumerate(values) if value not in codes]:
        row = int(np.isin(indices, odd).argmax())
        of = "a level of `order`" if known.get("ordered") else "a class that the training split has"
        raise CellError(
            f"column {known['column']!r}: expected {of}, {known['values']}, found {values[indices[row]]!r}. Correct "
            "it, or name it in `missing_values`",
            row,
        )
    return np.array([*(codes[value] for value in values), -1], dtype=np.int64)[indices]


def refuse(wrong: NDArray[np.bool_], found: NDArray[np.float64], expected: str) -> None:
    """Refuse cells (N,) that are wrong.

    Raises:
        CellError: that shows the first one.
    """
    if wrong.any():
        row = int(wrong.argmax())
        raise CellError(f"{expected}, found {found[row]:.6g}", row)


A_COUNT = "expected a count, a whole number of at least 0"
_EVENTS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
