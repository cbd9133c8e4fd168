"""A task's head, from what makes one, or from one that has been made."""

from __future__ import annotations

import inspect
from typing import Any, cast

from torch import nn

from mtl_lightning.architectures.base import HeadFactory
from mtl_lightning.names import made_by
from mtl_lightning.types import ConfigurationError


def build_head(task: str, factory: HeadFactory | nn.Module, size: tuple[int, ...], outputs: int) -> nn.Module:
    """Make a task's head from (feature size without B, K); ``nn.Linear`` takes the number of features.

    Args:
        task: the name, for messages.
        factory: makes it; or the head itself, which then serves this task alone.
        size: the feature size, without B.
        outputs: K.

    Raises:
        ConfigurationError: if it cannot be made of these.
    """
    if isinstance(factory, nn.Module):
        return _fitting(task, factory, size, outputs)
    maker = made_by(factory)
    name = getattr(maker, "__name__", maker)
    takes_a_number = inspect.isclass(maker) and issubclass(maker, nn.Linear) and len(size) == 1
    try:
        made: Any = factory(cast("Any", size[0] if takes_a_number else size), outputs)
    except TypeError as error:
        raise ConfigurationError(
            f"`heads`, task {task!r}: expected a class or function that makes a head of (feature size {size}, "
            f"{outputs} outputs), found {name}, which cannot: {error}. Use `Linear` or `MLPHead` of "
            "mtl_lightning.architectures, or a function of these two."
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"`heads`, task {task!r}: expected {name} to make a head (an `nn.Module`), found {type(made).__name__}."
        )
    return made


def _fitting(task: str, head: nn.Module, size: tuple[int, ...], outputs: int) -> nn.Module:
    """Return a head that has been made; refuse a linear map of other sizes."""
    if isinstance(head, nn.Linear) and (head.in_features, head.out_features) != (size[0], outputs):
        raise ConfigurationError(
            f"`heads`, task {task!r}: expected a head of {size[0]} features and {outputs} outputs, found {head}. Give "
            "its class instead: it is then made with these."
        )
    return head
