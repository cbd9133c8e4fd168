"""Names that users write: the one that an unknown name was probably meant to be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from mtl_lightning.errors import ConfigurationError

__all__ = ["did_you_mean", "known_arguments", "known_name", "listed", "made_by", "nearest"]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like ``name``, or None where none is near.

    One of the same letters in another order comes first: ``difflib`` takes ``"Adma"`` for ``"Adamax"`` rather than for
    ``"Adam"``.

    Args:
        name: the name to look for.
        known: where to look.
        cutoff: how like a name must be, from 0 to 1, as in ``difflib.get_close_matches``.
    """
    known = list(known)
    swapped = [other for other in known if sorted(other) == sorted(name)]
    return next(iter(get_close_matches(name, swapped or known, n=1, cutoff=0.0 if swapped else cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message, `` Did you mean 'x'?`` with the blank, or nothing where no name is near."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"


def listed(names: Sequence[str], most: int = 30) -> str:
    """Return names as a text that stays short."""
    return f"{list(names[:most])}" + (f" and {len(names) - most} more" if len(names) > most else "")


def known_name(name: str, known: Iterable[str], where: str) -> None:
    """Raise a :class:`ConfigurationError` that names the nearest known name unless ``name`` is one.

    Args:
        name: what was found.
        known: what was expected, one of these.
        where: the option or argument that it was found in, for the message.
    """
    known = list(known)
    if name not in known:
        raise ConfigurationError(f"`{where}`: expected one of {known}, found {name!r}.{did_you_mean(name, known)}")


def known_arguments(factory: Any) -> None:
    """Raise a :class:`ConfigurationError` for a ``functools.partial`` with an argument that its class has not.

    Anything else, and a constructor that takes whatever it is given, is left to be called.
    """
    if not isinstance(factory, functools.partial):
        return
    made = made_by(factory)
    known = _parameters(made)
    for name in factory.keywords:
        if known is not None and name not in known:
            label = getattr(made, "__name__", made)
            raise ConfigurationError(
                f"{label}: expected arguments among {sorted(known)}, found {name!r}.{did_you_mean(name, known)}"
            )


def made_by(factory: Any) -> Any:
    """Return the class or function behind a ``functools.partial``; the YAML parser's have it among their arguments."""
    if not isinstance(factory, functools.partial):
        return factory
    return next((part for part in (factory.func, *factory.args) if inspect.isclass(part)), factory.func)


def _parameters(made: Any) -> list[str] | None:
    """Return the names of a function's arguments, or of a class's and those that it hands on; None for any name.

    Classes of this library hand on what they take by name; what others do with it is not known.
    """
    classes = made.__mro__ if inspect.isclass(made) else ()
    constructors: list[Any] = [base.__dict__["__init__"] for base in classes if "__init__" in base.__dict__] or [made]
    names: list[str] = []
    for function in constructors:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # no function of Python
            return None
        names += [
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
        ]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
        if not function.__module__.startswith("mtl_lightning."):
            return None
    return None
