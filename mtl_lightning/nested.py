"""Nested values, such as the inputs of a batch: dicts, lists, tuples and named tuples with leaves, mostly tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["leaves", "map_leaves"]


def leaves(value: Any, *place: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield all that is no dict, list or tuple in ``value``, in order, each after its place, such as ``("a", 0)``.

    Args:
        value: a nested value, or a leaf.
        place: what the places begin with.
    """
    if isinstance(value, Mapping | list | tuple):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(entry, *place, key)
    else:
        yield place, value


def map_leaves(function: Callable[..., Any], *values: Any) -> Any:
    """Make a value of the form of the first one, each leaf being ``function`` of the values' leaves at that place.

    Mappings become dicts, lists lists and tuples tuples; named tuples stay what they are.

    Args:
        function: maps a leaf, or one leaf of each value; it decides what becomes of leaves that are no tensors.
        values: nested values of one form.

    Raises:
        ValueError: if a list or tuple is not of the same length in all values.
        KeyError: if a key of the first value's mappings is missing in another's.
    """
    first = values[0]
    if isinstance(first, Mapping):
        return {key: map_leaves(function, *(value[key] for value in values)) for key in first}
    if not isinstance(first, list | tuple):
        return function(*values)
    entries = [map_leaves(function, *parts) for parts in zip(*values, strict=True)]
    if isinstance(first, list):
        return entries
    return type(first)(*entries) if hasattr(first, "_fields") else tuple(entries)
