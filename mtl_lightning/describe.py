"""The plain data of a part: what YAML would say of it, which checkpoints hold and rebuild it from."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from mtl_lightning.errors import NotDescribableError
from mtl_lightning.ranges import Ranged

__all__ = ["Described", "constructor_arguments", "describe"]


class Described(Ranged):
    """Mixin that remembers the arguments an instance was made with, so that :func:`describe` can state them."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    is_proven: bool = False  # that what its checkpoints say of it can be rebuilt

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Keep the arguments; copies and unpickled instances bring theirs along in their state."""
        self = super().__new__(cls, *args, **kwargs)
        object.__setattr__(self, "_made_with", (args, kwargs))
        return self


def describe(part: Any) -> Any:
    """Turn a part into plain data that rebuilds it: what YAML would say.

    Classes and functions become dotted paths, partials and :class:`Described` instances
    ``{"class_path": ..., "init_args": {...}}``; numbers, strings, lists and dicts stay what they are.

    Raises:
        NotDescribableError: for other instances, lambdas and everything local, which only code can rebuild.
    """
    if part is None or isinstance(part, bool | str):
        return part
    if isinstance(part, Integral | Real):  # numbers of NumPy too, which no checkpoint could hold as they are
        return int(part) if isinstance(part, Integral) else float(part)
    if isinstance(part, Path):
        return str(part)
    if isinstance(part, list | tuple | set | frozenset):
        return [describe(item) for item in part]
    if isinstance(part, Mapping):
        return {str(key): describe(value) for key, value in part.items()}
    if is_dataclass(part) and not inspect.isclass(part):
        return {item.name: describe(getattr(part, item.name)) for item in fields(part)}
    if isinstance(part, functools.partial):
        return _describe_partial(part)
    if isinstance(part, Described) and part._made_with is not None:
        args, kwargs = part._made_with
        return _class_with_arguments(type(part), args, kwargs)
    if inspect.isclass(part):
        return {"class_path": _dotted_path(part)}
    if inspect.isfunction(part) or inspect.isbuiltin(part):
        return _dotted_path(part)
    shown, *more = repr(part).splitlines()
    raise NotDescribableError(
        f"Expected a class, a partial of one or plain data, found an instance: {shown}{' ...' if more else ''}."
    )


def _describe_partial(part: functools.partial[Any]) -> dict[str, Any]:
    """Describe ``partial(Class, **kwargs)``, or the parser's form of it, ``partial(make, ..., Class, **kwargs)``.

    A subclass of ``partial`` says that it is one of a function.
    """
    if inspect.isclass(part.func):
        if part.args:
            raise NotDescribableError(f"Expected a partial with keyword arguments only, found {part!r}.")
        return _class_with_arguments(part.func, (), part.keywords)
    if type(part) is not functools.partial and not part.args:  # a kind of its own, of functions
        return {"class_path": describe(part.func), "init_args": describe(part.keywords)}
    found = [arg for arg in part.args if inspect.isclass(arg)]
    if len(found) != 1:
        raise NotDescribableError(f"Expected a partial of a class, found {part!r}.")
    return _class_with_arguments(found[0], (), part.keywords)


def constructor_arguments(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that ``cls(*args, **kwargs)`` was given, by name.

    A constructor with ``*args`` is taken to hand them on to that of its base class, first.
    """
    return _by_name([base for base in cls.__mro__ if "__init__" in base.__dict__], args, kwargs)


def _by_name(classes: Sequence[type], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(classes[0].__init__)  # type: ignore[misc]  # of the class that defines it
    try:
        bound = signature.bind_partial(None, *args, **kwargs)  # a partial lacks what it will be called with
    except TypeError as error:
        raise NotDescribableError(f"Expected arguments of {classes[0].__name__}, found others: {error}.") from error
    named: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= _by_name(classes[1:], value, {})
        else:
            named |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return named


def _class_with_arguments(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    named = constructor_arguments(cls, args, kwargs)
    described = {"class_path": _dotted_path(cls)}
    return described | ({"init_args": {key: describe(value) for key, value in named.items()}} if named else {})


def _dotted_path(part: Any) -> str:
    """Return the shortest ``package.name`` that leads to a class or function, so that it outlives a move of its file.

    The outermost package that exports it under its own name is the one that users know: ``torch.optim.Adam`` and not
    ``torch.optim.adam.Adam``.
    """
    module, name = part.__module__, part.__qualname__
    if module is None or "<" in name or "." in name:
        raise NotDescribableError(f"Expected a class or function at the top of a module, found {module}.{name}.")
    for candidate in itertools.accumulate(module.split("."), "{}.{}".format):
        if getattr(importlib.import_module(candidate), name, None) is part:
            return f"{candidate}.{name}"
    raise NotDescribableError(f"Expected {module}.{name} to lead to {part!r}, found something else under that name.")
