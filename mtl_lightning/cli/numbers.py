"""Numbers of a configuration that are out of range, found before anything is made, by their dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pkgutil import resolve_name
from typing import Any, get_args, get_type_hints

from mtl_lightning.ranges import outside
from mtl_lightning.types import ConfigurationError


def check(config: Mapping[str, Any], classes: Mapping[str, type]) -> None:
    """Refuse a configuration with a number that is out of the range of its option.

    Args:
        config: of one subcommand.
        classes: those that sections of the configuration are the arguments of, by the sections' names.

    Raises:
        ConfigurationError: that gives the dotted key.
    """
    for name, value in config.items():
        if name in classes and isinstance(value, Mapping) and "class_path" not in value:
            _check_arguments(classes[name], value, name)
        else:
            _check(None, name, value, name, None)


def _check_arguments(owner: type | None, arguments: Mapping[str, Any], place: str) -> None:
    hints = _hints(owner)
    for name, value in arguments.items():
        _check(owner, name, value, f"{place}.{name}", hints.get(name))


def _check(owner: type | None, name: str, value: Any, place: str, hint: Any) -> None:
    """Look at one argument, and into the parts that are made of what is in it."""
    if isinstance(value, Mapping) and "class_path" in value:
        made = _resolved(value["class_path"])
        _check_arguments(
            made, {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}, f"{place}.init_args"
        )
    elif isinstance(value, Mapping) and (made := _dataclass(hint, value)) is not None:
        _check_arguments(made, value, place)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            _check(owner, name, entry, f"{place}.{key}", hint)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            _check(owner, name, entry, f"{place}.{index}" if isinstance(entry, Mapping) else place, hint)
    else:
        for _, number, allowed in outside(owner, name, value):
            raise ConfigurationError(f"`{place}`: expected {allowed}, found {number:g}.")


def _resolved(class_path: Any) -> type | None:
    try:
        found = resolve_name(str(class_path))
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def _hints(owner: type | None) -> Mapping[str, Any]:
    try:
        return {} if owner is None else get_type_hints(owner.__init__)  # type: ignore[misc]  # of the class that has it
    except (NameError, TypeError, AttributeError):
        return {}


def _dataclass(hint: Any, value: Mapping[str, Any]) -> type | None:
    """Return the dataclass, of those in a type, whose fields a mapping gives."""
    return next((cls for cls in _dataclasses(hint) if value and value.keys() <= {f.name for f in fields(cls)}), None)


def _dataclasses(hint: Any) -> Iterator[Any]:
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for part in get_args(hint):
        yield from _dataclasses(part)
