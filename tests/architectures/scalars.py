"""Networks of single numbers, whose outputs can be computed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.types import TensorSpec

NUMBER = TensorSpec((1,))
ONE = torch.ones(1, 1)


def times(*factors: float) -> nn.Sequential:
    """An encoder whose stages multiply a number by these factors."""
    return nn.Sequential(*(weight(factor) for factor in factors))


def weight(*values: float) -> nn.Linear:
    """The map from numbers (B, D) to (B, 1) with these coefficients."""
    layer = nn.Linear(len(values), 1, bias=False)
    put(layer.weight, [list(values)])
    return layer


def one_after_the_other(*networks: nn.Module) -> Any:
    """A factory that gives these networks in turn, as a user's function may."""
    queue = list(networks)
    return lambda _: queue.pop(0)


def put(parameter: Any, values: Any) -> None:
    """Set a parameter's values."""
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values, dtype=parameter.dtype).expand_as(parameter))


def values_of(features: Any) -> dict[str, float]:
    """The one number of each task."""
    per_task: dict[str, Tensor] = dict(features.per_task)
    return {task: float(value.item()) for task, value in per_task.items()}
