"""Schedulers that YAML can describe: torch's of several schedulers or a metric, and functions that make one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lightning.pytorch.cli import ReduceLROnPlateau as MonitoringPlateau
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from mtl_lightning.names import did_you_mean
from mtl_lightning.types import ConfigurationError

LENGTHS = ("total_steps", "num_training_steps")
"""Arguments that are the number of steps of the whole run: in updates, and filled in where they are not given."""
SHARES = ("milestones", "num_warmup_steps", "warmup_steps")
"""Arguments that are numbers of steps, or shares of the run where they are below 1."""


class ReduceLROnPlateau(MonitoringPlateau):
    """torch's, with the metric to watch here or in ``Schedule.monitor``.

    Args:
        optimizer: of the group.
        monitor: the metric, e.g. ``val/loss``.
        options: the arguments of ``torch.optim.lr_scheduler.ReduceLROnPlateau``.
    """

    def __init__(self, optimizer: Optimizer, monitor: str | None = None, **options: Any) -> None:
        super().__init__(optimizer, str(monitor), **options)
        self.monitor = monitor  # type: ignore[assignment]  # None: the schedule says which


class SequentialLR(lr_scheduler.SequentialLR):
    """torch's, which makes its schedulers itself, on the group's optimizer.

    Args:
        optimizer: of the group.
        schedulers: make the schedulers, in order.
        milestones: the steps at which the next one takes over; below 1: shares of the run.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[Callable[[Optimizer], LRScheduler]],
        milestones: list[int | float],
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ConfigurationError(
                f"SequentialLR: expected one milestone between two schedulers, found {len(schedulers)} schedulers and "
                f"the milestones {milestones}."
            )
        super().__init__(optimizer, [make(optimizer) for make in schedulers], milestones)  # type: ignore[arg-type]


class ChainedScheduler(lr_scheduler.ChainedScheduler):
    """torch's, which makes its schedulers itself, on the group's optimizer.

    Args:
        optimizer: of the group.
        schedulers: make the schedulers, whose factors are multiplied.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[Callable[[Optimizer], LRScheduler]]) -> None:
        super().__init__([make(optimizer) for make in schedulers], optimizer)


class SchedulerFunction(functools.partial[Any]):
    """A function of an optimizer that makes a scheduler, with the rest of its arguments: ``transformers`` has such."""

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: Mapping[str, Any]) -> SchedulerFunction:
        """Return a function with its arguments.

        Raises:
            ConfigurationError: for an argument that it does not have, or lacks.
        """
        name, parameters = getattr(function, "__name__", str(function)), inspect.signature(function).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return cls(function, **arguments)
        for argument in arguments:
            if argument not in parameters:
                raise ConfigurationError(f"{name} has no option {argument!r}.{did_you_mean(argument, parameters)}")
        needed = [n for n, p in list(parameters.items())[1:] if p.default is p.empty and n not in LENGTHS]
        if missing := [n for n in needed if n not in arguments]:
            raise ConfigurationError(f"{name} needs {', '.join(missing)}, found none.")
        return cls(function, **arguments)


SchedulerFactory: TypeAlias = (
    SchedulerFunction
    | Callable[[Optimizer], ReduceLROnPlateau]
    | Callable[[Optimizer], SequentialLR]
    | Callable[[Optimizer], ChainedScheduler]
    | Callable[[Optimizer], LRScheduler]
)
"""Makes a scheduler from an optimizer. Ours stand first, so that their short names mean them and not torch's."""


# ------------------------------------------------------------------------------------------- the length of the run
def counts_updates(factory: Callable[..., Any]) -> bool:
    """Whether a scheduler wants to know the number of steps of the whole run, and so is stepped by update."""
    return any(name in _parameters(factory) for name in LENGTHS)


def given_to(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments that a factory holds already."""
    return dict(getattr(factory, "keywords", {}))


def filled(factory: Callable[..., Any], length: Callable[[], int]) -> Callable[..., Any]:
    """Return what makes a scheduler with the numbers of steps that follow from the length of the run.

    Args:
        factory: makes it from an optimizer.
        length: tells the number of steps of the run; asked only where it is needed.
    """
    given = given_to(factory)
    missing = [name for name in LENGTHS if name in _parameters(factory) and given.get(name) is None]
    if missing and not {"epochs", "steps_per_epoch"} <= {name for name, value in given.items() if value is not None}:
        given |= dict.fromkeys(missing, length())
    for name in SHARES:
        if name in given:
            given[name] = _steps(given[name], length)
    inner = given.get("schedulers")
    if isinstance(inner, list) and isinstance(given.get("milestones"), list):
        given["schedulers"] = _parts(inner, given["milestones"], length)
    elif isinstance(inner, list):
        given["schedulers"] = [filled(part, length) for part in inner]
    return functools.partial(factory, **given) if given else factory


def _parts(factories: Sequence[Any], milestones: Sequence[int], length: Callable[[], int]) -> list[Any]:
    """Fill in schedulers that follow each other, each with the number of steps until the next."""
    ends: list[Callable[[], int]] = [*[functools.partial(int, end) for end in milestones], length]
    starts = [0, *milestones]

    def span(index: int) -> int:
        return ends[index]() - starts[index]

    return [filled(part, functools.partial(span, i)) if i < len(ends) else part for i, part in enumerate(factories)]


def _steps(value: Any, length: Callable[[], int]) -> Any:
    if isinstance(value, list | tuple):
        return [_steps(entry, length) for entry in value]
    return share(value, length) if isinstance(value, float) else value


def share(value: float, length: Callable[[], int]) -> int:
    """Return a number of steps that is given as such, or as a share of the run, below 1.

    Raises:
        ConfigurationError: for other fractions.
    """
    if 0 < value < 1:
        return round(value * length())
    if value != int(value):
        raise ConfigurationError(
            f"expected a whole number of steps, or a share of the run between 0 and 1, found {value}."
        )
    return int(value)


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the class or function that a factory, or the parser's form of one, is a partial of."""
    target: Any = factory
    if isinstance(factory, functools.partial):
        target = next((arg for arg in factory.args if inspect.isclass(arg)), factory.func)
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # no function of Python
        return {}
