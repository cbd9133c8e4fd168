"""What the cells of a notebook have printed, and whether another run of it prints the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

RELATIVE, ABSOLUTE = 0.05, 0.03
"""How far numbers may be apart, by either: another processor sums in another order, and training ends elsewhere."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def printed(cell: Any) -> str:
    """Return the text of a cell's outputs; pictures, and what stands for them in text, are left out."""
    outputs = [output for output in cell.get("outputs", []) if "image/png" not in output.get("data", {})]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures(cell: Any) -> int:
    """Return how many pictures a cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def differences(committed: Any, made: Any) -> list[str]:
    """Compare two runs of a notebook cell by cell: the words, the number of pictures, the numbers within a tolerance.

    Returns:
        A paragraph for each cell that differs, with its number (from 0), what differs, and both texts.
    """
    found = []
    pairs: Iterable[tuple[Any, Any]] = zip_longest(committed.cells, made.cells, fillvalue={})
    for number, (one, other) in enumerate(pairs):
        what = [*_of_texts(printed(one), printed(other))]
        if pictures(one) != pictures(other):
            what.append(f"{pictures(one)} pictures are {pictures(other)}")
        if what:
            both = f"committed:\n{printed(one)}\nnow:\n{printed(other)}"
            found.append(f"cell {number}: {'; '.join(what)}\n{both}")
    return found


def _of_texts(one: str, other: str) -> list[str]:
    """Say in what two texts differ: breaks of lines and widths of columns do not count."""
    words, others = ([*_NUMBER.sub(" # ", text).split()] for text in (one, other))
    if words != others:
        return ["other words"]
    numbers = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return [f"{a} is {b}" for a, b in numbers if not _near(float(a.replace(",", "")), float(b.replace(",", "")))]


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= max(ABSOLUTE, RELATIVE * abs(one))
