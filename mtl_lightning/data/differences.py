"""Where two schemas differ, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

_MOST = 3  # differences that are named


def differences(saved: Any, found: Any, where: str = "") -> Iterator[str]:
    """Give each place where plain data that were saved and found differ; what only one side has keys for is passed over
    where it is not what the data consists of, so that later versions may add to a schema.

    Args:
        saved: of a checkpoint.
        found: of the data that is there.
        where: the keys that lead here.
    """
    if isinstance(saved, Mapping) and isinstance(found, Mapping):
        keys = [key for key in saved if key in found]
        if where and (other := {*saved} ^ {*found}):
            yield f"{where}: {sorted(map(str, {*saved} & other))} there, {sorted(map(str, {*found} & other))} here"
            return
        for key in keys:
            yield from differences(saved[key], found[key], f"{where}.{key}" if where else str(key))
    elif isinstance(saved, list | tuple) and isinstance(found, list | tuple):
        if [*saved] != [*found]:
            yield f"{where}: {_short([v for v in saved if v not in found] or saved)} there, " + (
                f"{_short([v for v in found if v not in saved] or found)} here"
            )
    elif isinstance(saved, float) and isinstance(found, float | int):
        if not math.isclose(saved, found, rel_tol=1e-9, abs_tol=1e-12) and saved == saved:
            yield f"{where}: {saved:.6g} there, {found:.6g} here"
    elif saved != found:
        yield f"{where}: {saved!r:.60} there, {found!r:.60} here"


def in_words(saved: Any, found: Any) -> str:
    """Return the first few differences as one text; empty if there is none."""
    all_of_them = list(differences(saved, found))
    more = f"; and {len(all_of_them) - _MOST} more" if len(all_of_them) > _MOST else ""
    return "; ".join(all_of_them[:_MOST]) + more


def _short(values: Any) -> str:
    values = list(values)
    return f"{values[:4]!r:.120}" + (f" and {len(values) - 4} more" if len(values) > 4 else "")
