"""A table's schema, and what spoils a column, in words that stay short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl_lightning.data.table.profile import Profile
from mtl_lightning.encoding.kinds import kinds_of
from mtl_lightning.names import listed
from mtl_lightning.types import DataError

_MOST = 12  # columns of a kind that are printed
_BLOCKS = {"numeric": "more numbers", "categorical": "more codes", "lists": "lists"}


def described(schema: Mapping[str, Any]) -> str:
    """Say what columns a schema has, and what of it was guessed."""
    doubts = schema.get("doubts", {})
    lines = [f"{schema['rows']} training rows"]
    for kind in ("numeric", "categorical"):
        reasons = {name: schema["guessed"].get(name, "") for name in schema[kind]}
        lines += [f"  {kind}: {_columns(reasons, doubts)}"] if reasons else []
    told = {name: (kind.block, kind.told()) for name, kind in kinds_of(schema).items()}
    for block, words in _BLOCKS.items():
        reasons = {name: why for name, (of, why) in told.items() if of == block}
        guessed = {name: schema["guessed"][name] for name in reasons if name in schema["guessed"]}
        reasons |= {name: f"{guessed[name]}: {reasons[name]}" for name in guessed}
        lines += [f"  {words}: {_columns(reasons, doubts)}"] if reasons else []
    lines += [f"  left out: {_columns(schema['ignored'], {})}"] if schema["ignored"] else []
    if missing := schema.get("missing"):
        lines.append(f"  missing: {_some([f'{name} {count}' for name, count in missing.items()])}")
    for task, known in schema["targets"].items():
        lines.append(f"  target {task}: {_target_in_words(known)}" + (" (guessed)" if known["guessed"] else ""))
    if doubts:
        lines.append(f"  doubtful, marked `?`: {_some([f'{name}: {what}' for name, what in doubts.items()], '; ')}")
    return "\n".join(lines)


def _columns(reasons: Mapping[str, str], doubts: Mapping[str, str]) -> str:
    """List columns with reasons, doubtful ones first where not all can be shown."""
    names = sorted(reasons, key=lambda name: name not in doubts) if len(reasons) > _MOST else list(reasons)
    return _some(
        [f"{name}{'?' if name in doubts else ''}{f' ({reasons[name]})' if reasons[name] else ''}" for name in names]
    )


def _some(words: list[str], between: str = ", ") -> str:
    shown = [word if len(word) <= 120 else f"{word[:117]}..." for word in words[:_MOST]]
    return between.join(shown) + (f" and {len(words) - _MOST} more" if len(words) > _MOST else "")


def _target_in_words(known: Mapping[str, Any]) -> str:
    conditions = known.get("only_where", {})
    where = " and ".join(f"{name!r} is {' or '.join(values)}" for name, values in conditions.items())
    return _kind_in_words(known) + (f", where {where}" if where else "")


def _kind_in_words(known: Mapping[str, Any]) -> str:
    kind, column = known["kind"], known["column"]
    if kind in ("number", "count"):
        over = f" per {known['exposure']!r}" if known.get("exposure") else ""
        minus = f"{column!r} - {known.get('minus')!r}" if known.get("minus") else "a number"
        what = f"a count{over}" if kind == "count" else f"the logarithm of {column!r}" if known.get("log") else minus
        return f"{what}, {known['mean']:.4g} in the mean, standard deviation {known['std']:.4g}"
    if kind == "survival":
        return f"the time {column!r} to the event {known['event']!r}, {known['mean']:.4g} in the mean"
    if kind == "at_least":
        return f"is {column!r} at least {known['threshold']:g}?"
    if kind == "positive":
        return f"is {column!r} among {listed(known['values'], 3)}?"
    if kind == "is_missing":
        return f"is {column!r} missing?"
    what = "levels in order" if kind == "ordinal" else "classes"
    return f"{len(known['values'])} {what}, {listed(known['values'], 5)}"


def refuse_spoiled(name: str, profile: Profile, instead: str) -> None:
    """Refuse a column of numbers in which some cells are none.

    Args:
        name: the column.
        profile: what was met in it.
        instead: what to declare for it to be no column of numbers.

    Raises:
        DataError: that shows the cells, how often they were met and where first.
    """
    reading = profile.reading
    if profile.readings.is_ambiguous:
        text = next(iter(profile.counts), "1,234")
        raise DataError(
            f"Column {name!r}: expected numbers that can be read in one way, found that in all of them a comma stands "
            f"before three digits, as in {text!r}. Say what it is: `thousands: ','` if that is "
            f"{text.replace(',', '')}, `decimal: ','` if it is {text.replace(',', '.')}."
        )
    if reading.strangers.total:
        met = reading.strangers.met
        text, (_, where) = next(iter(met.items()))
        cells = ", ".join(f"{other!r} ({count}, first in {place})" for other, (count, place) in met.items())
        raise DataError(
            f"{where}: column {name!r}: expected a number, found {text!r}; of {profile.present} cells "
            f"{reading.strangers.total} are no numbers: {cells}. Correct them; or, if they stand for a missing value, "
            f"add `missing_values: {list(met)}`; or {instead}."
        )
    raise DataError(
        f"Column {name!r}: expected numbers of one unit, found {dict(reading.units)} among {reading.parsed}. Write all "
        f"of them alike; or {instead}."
    )
