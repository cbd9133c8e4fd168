"""Plain data: what any checkpoint, YAML or JSON file can hold; and what a checkpoint can hold besides, tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mtl_lightning.errors import ConfigurationError

__all__ = ["check_plain", "is_plain", "other_kind"]

_LEAVES = (str, int, float, bool, type(None))
_KINDS: tuple[Any, ...] = (bool, (int, float), str, (list, tuple), Mapping, Tensor)


def is_plain(value: Any, *, tensors: bool = False) -> bool:
    """Whether ``value`` is plain data: str, int, float, bool and None, in dicts and lists.

    NumPy's numbers, and other subclasses of the five, are none.

    Args:
        value: what to look at.
        tensors: allow tensors and tuples too, which ``torch.load(..., weights_only=True)`` reads, and JSON does not.
    """
    return next(_foreign(value, "", tensors), None) is None


def check_plain(value: Any, where: str, *, tensors: bool = False) -> None:
    """Refuse what is not plain data, as :func:`is_plain` says.

    Raises:
        ConfigurationError: that says where in ``value``, which is called ``where``, something else was found.
    """
    for place, found in _foreign(value, where, tensors):
        also = ", tuple, Tensor" if tensors else ""
        raise ConfigurationError(
            f"Expected plain data (str, int, float, bool, None, list, dict{also}) in {place}, found {found!r} of type "
            f"{type(found).__name__}."
        )


def other_kind(found: Any, own: Any, place: str, *, whole: bool = False) -> str | None:
    """Say where a saved state has an entry of another kind than one's own; None where it has not.

    Entries that only one of them has, and those that are None in one's own, may be anything.

    Args:
        found: the saved state.
        own: one's own, say at the start of a run.
        place: what to call it.
        whole: lists must be as long as one's own, and whole numbers be whole.
    """
    if isinstance(own, Mapping) and isinstance(found, Mapping):
        pairs = [(f"{place}.{name}", found[name], own[name]) for name in own if name in found]
    elif isinstance(own, list | tuple) and isinstance(found, list | tuple):
        if whole and len(found) != len(own):
            return f"`{place}` has {len(found)} entries"
        pairs = [(place, *pair) for pair in zip(found, own, strict=False)]
    elif own is None or _kind(found) == _kind(own):
        odd = whole and isinstance(own, int) and not float(found).is_integer()
        return f"`{place}` is {found:g}" if odd else None
    else:
        return f"`{place}` is a {type(found).__name__}"
    return next(filter(None, (other_kind(theirs, mine, at, whole=whole) for at, theirs, mine in pairs)), None)


def _kind(value: Any) -> Any:
    return next((kind for kind in _KINDS if isinstance(value, kind)), type(value))


def _foreign(value: Any, where: str, tensors: bool) -> Iterator[tuple[str, Any]]:
    """Yield what is not plain, and where it is."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _foreign(key, f"a key of {where}", tensors)
            yield from _foreign(entry, f"{where}[{key!r}]", tensors)
    elif isinstance(value, list) or (tensors and type(value) is tuple):
        for index, entry in enumerate(value):
            yield from _foreign(entry, f"{where}[{index}]", tensors)
    elif type(value) not in _LEAVES and not (tensors and type(value) is Tensor):
        yield where, value
