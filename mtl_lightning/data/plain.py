"""What may stand in a schema: data that any checkpoint, YAML or JSON file can hold."""

from __future__ import annotations

from typing import Any

from mtl_lightning.types import ConfigurationError


def check_plain(value: Any, where: str) -> None:
    """Refuse what a checkpoint could not hold as plain data, numpy's numbers and tuples included.

    Raises:
        ConfigurationError: that says where in ``value``, which is called ``where``, something else was found.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise ConfigurationError(
            f"Expected plain data (str, int, float, bool, None, list, dict) in {where}, found {value!r} of type "
            f"{type(value).__name__}."
        )
