"""Checks of what tasks are given, shared by several of them; each raises ``ConfigurationError``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.types import ConfigurationError, TargetSpec, state_dtype

_WRITTEN = {"names": "class_names", "classes": "num_classes", "shape": "num_outputs"}


def merged_spec(task: str, spec: TargetSpec | None, written: dict[str, str] | None = None, **given: Any) -> TargetSpec:
    """Return what is known of a target by the data's spec and by a task's own arguments together.

    Args:
        task: the task's class, for the message.
        spec: what the data says; None for a task that is made without data.
        written: what an argument is called, by the field of the spec.
        given: fields of the spec that arguments say; None where they do not.

    Raises:
        ConfigurationError: where both say something, and not the same.
    """
    written = _WRITTEN | (written or {})
    said: dict[str, Any] = {
        field: tuple(value) if field == "names" else value for field, value in given.items() if value is not None
    }
    if spec is None:
        return TargetSpec(**said)
    if not isinstance(spec, TargetSpec):
        raise ConfigurationError(
            f"{task}: expected a TargetSpec, or none, as the first argument, found {spec!r:.60}. Give what is known of "
            "the target by name, such as `num_classes=5`."
        )
    for field, value in said.items():
        known = getattr(spec, field)
        if known != value and (field == "shape" or known not in (None, (), "")):
            raise ConfigurationError(
                f"{task}: expected `{written.get(field, field)}` to be what the TargetSpec says, `{field}` {known!r}, "
                f"found {value!r}. Leave the argument out: the data knows it."
            )
    return replace(spec, **said)


def counted(task: str, number: int | None, names: Sequence[str] | None, argument: str) -> int | None:
    """Return the number of classes, labels or outputs, which their names tell too; None where neither is given.

    Args:
        task: the task's class, for the message.
        number: of them.
        names: of them.
        argument: what the number is called.

    Raises:
        ConfigurationError: for names, of which there is another number.
    """
    if isinstance(names, str):
        raise ConfigurationError(f"{task}: expected a list of names, found the text {names!r:.60}.")
    if names is not None and number is not None and len(names) != number:
        raise ConfigurationError(f"{task}: expected {number} names, as `{argument}` says, found {len(names)}: {names}.")
    return len(names) if number is None and names is not None else number


def single_label(spec: TargetSpec, task: str) -> None:
    """Check that a spec is that of one label a row."""
    if spec.shape not in ((), (1,)):
        raise ConfigurationError(
            f"{task}: expected a target with one label a row, shape () in its TargetSpec, found {spec.shape}."
        )


def at_least_two(size: int | None, task: str, argument: str = "num_classes") -> int:
    """Check the number of classes or labels that a spec gives."""
    if size is None or size < 2:
        raise ConfigurationError(
            f"{task}: expected at least 2 `classes` in the TargetSpec, found {size}. The data says how many there are; "
            f"in Python write `{task}({argument}=...)`. Use BinaryClassification for one yes-or-no label."
        )
    return size


def weights(name: str, values: Sequence[float] | None, size: int) -> Tensor | None:
    """Check weights and return them as a tensor (size,)."""
    if values is None:
        return None
    tensor = torch.tensor(values, dtype=state_dtype())
    if tensor.shape != (size,):
        raise ConfigurationError(f"`{name}`: expected {size} numbers, found {values}.")
    return tensor
