"""What a column is taken for where nothing is declared, why, and what else it might be."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from mtl_lightning.data.table.counted import looks_counted
from mtl_lightning.data.table.profile import FEW, Kind, Profile
from mtl_lightning.data.table.target_column import TargetKind
from mtl_lightning.names import listed
from mtl_lightning.types import DataError

_ROWS = 10  # a value, in the mean, that categories need to be learned
_ORDERED = 100  # rows, from which numbers that always rise are row numbers and texts that seldom repeat are names
_SCATTERED = 0.8  # the deviation over the mean, from which integers may be counts
_AS_IDS = re.compile(r"(?:^|_|\b)(?:id|ID|Id)$|[a-z]I[dD]$")
_CLASSES = 1_000  # more are refused unless they are declared


class Guess(NamedTuple):
    """What a column is taken for, and the words for it."""

    kind: Kind | None  # None: left out
    why: str
    doubt: str = ""  # what to declare if it is something else


def guess_feature(name: str, profile: Profile) -> Guess:
    """Return the kind of feature that a column looks like."""
    if not profile.present:
        return Guess(None, "empty")
    if not profile.is_number:
        return _text(name, profile)
    reading, distinct = profile.reading, profile.distinct
    if reading.notation.bools:
        return Guess("category", "true or false")
    if reading.notation.dates:
        return Guess("number", "dates")
    if reading.is_integer and reading.rises and profile.rows > _ORDERED:
        return Guess(None, "rises from row to row, as row numbers do")
    if reading.is_integer and distinct <= FEW:
        why = f"{distinct} different integers"
        if distinct <= 2:
            return Guess("category", why)
        if profile.present >= _ROWS * distinct:
            return Guess("category", why, f"`numeric: [{name}]` if they are amounts")
        return Guess("number", why, f"`categorical: [{name}]` if they are codes")
    what = "integers" if reading.is_integer else "numbers"
    ids = f"`hashed: {{{name}: 200000}}` if they are ids" if reading.is_integer and _AS_IDS.search(name) else ""
    return Guess("number", what + _written(profile), ids or outweighed(profile))


def outweighed(profile: Profile) -> str:
    """Say which single cell makes all others of a column of numbers look alike; empty if none does."""
    varied = not profile.reading.is_integer if profile.kind == "number" else profile.distinct > FEW
    found = profile.reading.outlier if varied else None
    if found is None:
        return ""
    return f"{found[0]:.6g} in {found[1]} outweighs all other cells; correct it, or add it to `missing_values`"


def _text(name: str, profile: Profile) -> Guess:
    distinct = len(profile.categories())
    if not profile.is_counted:
        doubt = f"`hashed: {{{name}: 200000}}` if they are ids, `text: [{name}]` if they are words"
        return Guess(None, "more than 100000 different texts", doubt)
    if distinct > profile.present / 2 and profile.rows > _ORDERED:
        return Guess(None, "text that seldom repeats")
    share = profile.reading.parsed / profile.present
    doubt = f"{share:.0%} of its cells are numbers; `numeric: [{name}]` says which are not" if share > 0.1 else ""
    for mark in "|;":
        if not doubt and 2 * sum(mark in text for text in profile.categories()) > distinct:
            doubt = f"`lists: {{{name}: {mark!r}}}` if they are lists"
    return Guess("category", f"{distinct} different texts", doubt)


def _written(profile: Profile) -> str:
    """Say how numbers are spelled that are not plain."""
    notation, unit = profile.reading.notation, next(iter(profile.reading.units), "")
    if notation.is_plain:
        return ""
    example = next(iter(profile.counts), "") if profile.is_counted else ""
    marks = f" with {notation.decimal!r} before the fraction"
    return f"{marks}{f' and {unit}' if unit else ''}{f', as in {example}' if example else ''}"


def guess_target(task: str, column: str, profile: Profile) -> tuple[TargetKind, str]:
    """Return the kind of target that a column looks like; and what to declare if it is another kind.

    Raises:
        DataError: for texts that are too many classes for their rows.
    """
    number = f"`targets: {{{task}: {{kind: number}}}}` if they are amounts"
    classes = f"`targets: {{{task}: {{kind: classes}}}}` if they are classes"
    reading, distinct = profile.reading, profile.distinct
    if not profile.is_number:
        return _checked_classes(task, column, profile), ""
    if reading.notation.bools or distinct <= 2:
        return "classes", "" if reading.is_integer else number
    if reading.notation.dates or not reading.is_integer:
        return "number", outweighed(profile)
    if looks_counted(profile):
        return "count", f"{classes}, `kind: number` if they are amounts"
    if distinct > FEW:
        scattered = reading.lowest[0] >= 0 and reading.moments.finish().std >= _SCATTERED * reading.moments.mean
        counts = f"`targets: {{{task}: {{kind: count}}}}` if they count events"
        return "number", outweighed(profile) or (counts if scattered else "")
    many = profile.present >= _ROWS * distinct
    others = ", `kind: ordinal` if they are levels in order, `kind: count` if they count events"
    return ("classes", number + others) if many else ("number", classes + others)


def _checked_classes(task: str, column: str, profile: Profile) -> Literal["classes"]:
    found = profile.categories()
    enough = len(found) <= 2 or profile.present >= _ROWS * len(found)
    if profile.is_counted and enough and len(found) <= _CLASSES:
        return "classes"
    several = f"{len(found)}" if profile.is_counted else "more than 1000"
    raise DataError(
        f"Target {task!r}: expected a class of texts to have at least {_ROWS} rows in the mean, and at most {_CLASSES} "
        f"classes, found {several} different texts in {profile.present} rows of column {column!r}: "
        f"{listed(list(found), 4)}. If they are classes, declare it: `targets: {{{task}: {{kind: classes}}}}`. If they "
        "are numbers or dates, say how they are spelled: `thousands`, `decimal`, `dates`. Else leave the target out."
    )
