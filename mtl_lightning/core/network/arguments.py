"""What the arguments of a module may be, in one table: what else is given is refused with what was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtl_lightning.names import known_arguments
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError


@dataclass(frozen=True)
class _Rule:
    """What an argument may be.

    Attributes:
        fits: whether a value, or each entry of a dict, is of the right kind.
        expected: what that is, in words.
        instead: what to write; ``{name}`` stands for the first key, or a value's own name.
        by_name: whether it is a dict of such values by name.
    """

    fits: Callable[[Any], bool]
    expected: str
    instead: str
    by_name: bool = True


def _is_factory(value: Any) -> bool:
    return callable(value) and not isinstance(value, Optimizer | LRScheduler)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset)


_RULES = {
    "tasks": _Rule(
        lambda value: isinstance(value, Task),
        "a Task that has been made",
        "Write `tasks={{{key!r}: Regression()}}`, or take the `tasks` of a datamodule.",
    ),
    "heads": _Rule(
        callable,
        "a class or function that makes a head from (feature size, K), or a head",
        "Write `heads={{{key!r}: MLPHead}}`; other arguments go into a `functools.partial`.",
    ),
    "reads": _Rule(
        lambda value: _is_list(value) or isinstance(value, Mapping),
        "a list of tasks, or a dict {task: Edge}",
        "Write `reads={{{key!r}: [...]}}`.",
    ),
    "groups": _Rule(
        lambda value: isinstance(value, str) or (_is_list(value) and all(isinstance(entry, str) for entry in value)),
        "a list of patterns of parameter names",
        'Write `groups={{{key!r}: ["architecture.*"]}}`.',
    ),
    "optimizers": _Rule(
        _is_factory,
        "what makes an optimizer from parameters",
        "Write `optimizers={{{key!r}: partial(Adam, lr=1e-3)}}`; `default` is for all groups without one.",
    ),
    "schedulers": _Rule(
        lambda value: not isinstance(value, str | Real | LRScheduler | Optimizer),
        "what makes a scheduler from an optimizer",
        "Write `schedulers={{{key!r}: partial(StepLR, step_size=10)}}`; `default` is for all groups without one.",
    ),
    "gradient_clip": _Rule(
        lambda value: value is None or (isinstance(value, Real) and not isinstance(value, bool)),
        "the largest norm of its gradient",
        "Write `gradient_clip={{{key!r}: 1.0}}`; all groups together are clipped by `Trainer(gradient_clip_val=1.0)`.",
    ),
    "allow_unlabelled": _Rule(_is_list, "a list of tasks", "Write `allow_unlabelled=[...]`.", by_name=False),
    "compile": _Rule(
        lambda value: isinstance(value, bool | Mapping),
        "True, False or a dict of arguments of `torch.compile`",
        'Write `compile=True`, or `compile={{"mode": ...}}`.',
        by_name=False,
    ),
    "balancer": _Rule(
        callable,
        "a class or function that makes a balancer from the number of tasks",
        "Write `balancer={name}` after `from mtl_lightning.balancing import {name}`.",
        by_name=False,
    ),
}
_REQUIRED = ("tasks", "balancer")
_KEYS = {"tasks": "y", "heads": "y", "reads": "y", "groups": "encoder", "gradient_clip": "shared"}  # else `default`


def check_arguments(**arguments: Any) -> None:
    """Refuse arguments of another kind than they are used as; None, where it may be, is left to its default.

    Raises:
        ConfigurationError: that names the argument, what was found and what to write; likewise for an argument of a
            ``functools.partial`` that there is not.
    """
    for argument, value in arguments.items():
        rule = _RULES[argument]
        if (value is None and argument not in _REQUIRED) or (not rule.by_name and rule.fits(value)):
            known_arguments(value)
            continue
        if not rule.by_name:
            raise ConfigurationError(_message(argument, rule, rule.expected, value))
        if not isinstance(value, Mapping):
            raise ConfigurationError(_message(argument, rule, f"a dict {{name: {rule.expected}}}", value))
        for name, entry in value.items():
            if not isinstance(name, str):
                raise ConfigurationError(_message(argument, rule, "names that are text", name))
            if not rule.fits(entry):
                raise ConfigurationError(_message(f"{argument}[{name!r}]", rule, rule.expected, entry, name))
            known_arguments(entry)


def _message(where: str, rule: _Rule, expected: str, value: Any, key: str | None = None) -> str:
    key = key or _KEYS.get(where, "default")
    name = value if isinstance(value, str) and value.isidentifier() else "UncertaintyWeighting"
    return f"`{where}`: expected {expected}, found {_kind_of(value)}. {rule.instead.format(key=key, name=name)}"


def _kind_of(value: Any) -> str:
    """Say in a few words what a value is."""
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, str):
        return f"the text {value!r:.60}"
    if isinstance(value, Real):
        return f"the number {value}"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return f"a {type(value).__name__}: {value!r:.60}"
    made = " that has been made" if isinstance(value, nn.Module | Optimizer | LRScheduler) else ""
    return f"a value of type {type(value).__name__}{made}"
