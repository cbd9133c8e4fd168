"""Changes to a configuration, as nested or dotted keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["changed"]

_PART = ("class_path", "init_args", "dict_kwargs")


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with changes; the one that is given stays as it is.

    Mappings are merged, anything else is replaced. Another ``class_path`` brings its own arguments: those of the class
    before it are dropped, as they were meant for that one. As on the command line, ``init_args`` may be left out of a
    dotted key.

    >>> config = {"data": {"class_path": "A", "init_args": {"rows": 3, "seed": 1}}}
    >>> changed(config, {"data.rows": 5})
    {'data': {'class_path': 'A', 'init_args': {'rows': 5, 'seed': 1}}}
    >>> changed(config, {"data.class_path": "B"})
    {'data': {'class_path': 'B'}}

    Args:
        config: nested.
        changes: by key; a key with dots that the configuration does not have as it is leads to where they point.
    """
    return dict(_merged(copy.deepcopy(dict(config)), _spread(changes, config)))


def _spread(changes: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Turn dotted keys into nested ones."""
    known = _as_part(config, changes)
    spread: dict[str, Any] = {}
    for name, value in changes.items():
        key = str(name)
        first, _, rest = (key, "", "") if key in known else key.partition(".")
        inner = {rest: value} if rest else value
        if "class_path" in known and first not in _PART:
            first, inner = "init_args", {first: inner}
        if isinstance(inner, Mapping):
            inner = _spread(inner, known.get(first))
        before = spread.get(first)
        spread[first] = _merged(before, inner) if isinstance(before, dict) else inner
    return spread


def _merged(config: Any, changes: Any) -> Any:
    if not isinstance(changes, Mapping):
        return changes
    known = _as_part(config, changes)
    if "class_path" in changes and changes["class_path"] != known.get("class_path", changes["class_path"]):
        return dict(changes)
    return {**known, **{name: _merged(known.get(name), value) for name, value in changes.items()}}


def _as_part(config: Any, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration as a mapping: a class's name alone becomes its ``class_path``."""
    if isinstance(config, Mapping):
        return config
    names = {str(name).partition(".")[0] for name in changes}
    return {"class_path": config} if isinstance(config, str) and names & {*_PART} else {}
