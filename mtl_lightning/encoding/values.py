"""Values of Python as numbers or texts, one by one, just as a column of a file that held them would be read."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from mtl_lightning.encoding.cells import CellError, numbers, spelling, texts, whole
from mtl_lightning.encoding.notation import Notation

__all__ = ["is_missing", "number_of", "text_of"]

_PLAIN = re.compile(r"-?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][-+]?\d{1,2})?", re.ASCII)
_GAPS = ("NAType", "NaTType")  # of pandas
_SMALL, _GREAT = 1e-4, 1e15  # between these Python and Arrow spell floats alike


def is_missing(value: Any) -> bool:
    """Whether a value stands for none in any column: None, or pandas' NA and NaT."""
    return value is None or type(value).__name__ in _GAPS


def number_of(value: Any, missing: Collection[str], notation: Notation) -> float:
    """Return a value as a number: nan where it is missing, infinity where it is none.

    Args:
        value: a number, a bool, a text, a time, or anything else.
        missing: what stands for a missing value.
        notation: how texts spell numbers.
    """
    if isinstance(value, bool | int | float | np.number | np.bool_ | Decimal):
        try:
            found = float(value)
        except (OverflowError, TypeError, ValueError):  # an integer without end, a complex number
            return math.inf
        return math.nan if _spells(found, missing) else found
    if isinstance(value, str):
        text = value.strip()
        if not text or text in missing or (not notation.is_plain and spelling(text) in missing):
            return math.nan
        if not notation.is_plain:
            return notation.parse(text)[0]
        if _PLAIN.fullmatch(text):
            return float(text)
    if is_missing(value):
        return math.nan
    try:
        return float(numbers(_alone(value), missing, notation)[0])
    except CellError:
        return math.inf


def _spells(number: float, missing: Collection[str]) -> bool:
    """Whether a number is one that stands for a missing value, such as -999."""
    return any(number == other for text in missing if (other := _float(text)) is not None)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def text_of(value: Any, missing: Collection[str]) -> str | None:
    """Return a value as the text by which its category goes; None where it is missing.

    Args:
        value: a text, a number, a bool, a time.
        missing: what stands for a missing value.

    Raises:
        CellError: for anything else, such as a list.
    """
    found = _text(value)
    return found if found and found not in missing else None


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return spelling(value)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, Decimal):  # by itself: in a column of them Arrow would give all of them as many digits
        return spelling(format(value, "f")) if value == value else None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer() or not _SMALL <= abs(value) < _GREAT:
            return whole(value) or _by_arrow(value)
        return repr(float(value))
    return None if is_missing(value) else _by_arrow(value)


def _by_arrow(value: Any) -> str | None:
    return next(iter(texts(_alone(value))[1]), None)


def _alone(value: Any) -> Any:
    """Return an array of one value.

    Raises:
        CellError: for what no column can hold.
    """
    if isinstance(value, list | tuple | dict | set | frozenset):  # Arrow would follow lists in lists without end
        raise CellError(f"expected numbers, text, bools or times, found {type(value).__name__}", 0)
    try:
        return pa.array(np.array([value]) if isinstance(value, np.generic) else [value])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise CellError(f"expected numbers, text, bools or times, found {type(value).__name__}", 0) from error
