"""Checks of what tasks are given, shared by several of them; each raises ``ConfigurationError``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtl_lightning.types import ConfigurationError, TargetSpec, state_dtype


def single_label(spec: TargetSpec, task: str) -> None:
    """Check that a spec is that of one label a row."""
    if spec.shape not in ((), (1,)):
        raise ConfigurationError(
            f"{task}: expected a target with one label a row, shape () in its TargetSpec, found {spec.shape}."
        )


def at_least_two(size: int | None, task: str) -> int:
    """Check the number of classes or labels that a spec gives."""
    if size is None or size < 2:
        raise ConfigurationError(
            f"{task}: expected at least 2 `classes` in the TargetSpec, found {size}. The data says how many there are; "
            "use BinaryClassification for one yes-or-no label."
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
