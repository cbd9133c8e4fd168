"""A search: ranges of a configuration's keys, what a trial draws from them, and which trials are the best."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mtl_lightning.types import ConfigurationError

__all__ = ["Range", "combinations", "front", "read_ranges"]

_KEYS = ("low", "high", "log", "step", "choices")
_SHAPE = "{low, high} with `log` or `step` perhaps, or a list of choices"


@dataclass(frozen=True)
class Range:
    """What a key of the configuration may be: a number between two, or one of several values.

    Whole numbers are drawn between whole ones.

    Attributes:
        low: the least number.
        high: the largest.
        log: whether every factor, and not every difference, is as likely.
        step: numbers are that far apart.
        choices: the values to choose from, in place of numbers; any that YAML has.
    """

    low: float = math.nan
    high: float = math.nan
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def labels(self) -> dict[str, Any]:
        """The choices by what Optuna knows them as; nothing where there are none."""
        return {one if isinstance(one, str) else json.dumps(one): one for one in self.choices}

    def draw(self, trial: Any, key: str) -> Any:
        """Let a trial of Optuna's choose."""
        if self.choices:
            return self.labels[trial.suggest_categorical(key, list(self.labels))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)


def read_ranges(ranges: Mapping[str, Any], where: str = "ranges") -> dict[str, Range]:
    """Return the ranges that are declared by the keys of a configuration.

    Raises:
        ConfigurationError: for none, and for what is neither two ends nor choices.
    """
    if not isinstance(ranges, Mapping) or not ranges:
        raise ConfigurationError(f"`{where}`: expected at least one, as `key: {_SHAPE}`, found {ranges!r:.100}.")
    return {str(key): _range(given, f"{where}.{key}") for key, given in ranges.items()}


def combinations(ranges: Mapping[str, Range], trials: int) -> list[dict[str, str]]:
    """Return every combination of choices, by their labels, where so many trials can try each once; else none.

    >>> combinations({"lr": Range(choices=(0.1, 0.01))}, 2)
    [{'lr': '0.1'}, {'lr': '0.01'}]
    >>> combinations({"lr": Range(choices=(0.1, 0.01))}, 1)
    []
    """
    labels = [[*allowed.labels] for allowed in ranges.values()]
    if not math.prod(map(len, labels)) or math.prod(map(len, labels)) > trials:
        return []
    return [dict(zip(ranges, chosen, strict=True)) for chosen in itertools.product(*labels)]


def _range(given: Any, where: str) -> Range:
    options: Mapping[str, Any] = {"choices": given} if isinstance(given, list) else given
    if not isinstance(options, Mapping) or not {*options} <= {*_KEYS}:
        raise ConfigurationError(f"`{where}`: expected {_SHAPE}, found {given!r:.100}.")
    if "choices" in options:
        if len(options) > 1 or not isinstance(options["choices"], list) or not options["choices"]:
            raise ConfigurationError(f"`{where}`: expected choices alone, at least one, found {given!r:.100}.")
        return Range(choices=tuple(options["choices"]))
    low, high, log, step = (cast("Any", options.get(name)) for name in ("low", "high", "log", "step"))
    if not _is_number(low) or not _is_number(high) or not low <= high:
        raise ConfigurationError(
            f"`{where}`: expected numbers `low` and `high`, the one below the other, found {given!r}."
        )
    if log not in (None, True, False) or (log and low <= 0):
        raise ConfigurationError(f"`{where}`: expected with `log: true` a `low` above 0, found {given!r}.")
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and (not _is_number(step) or step <= 0 or log or (whole and step != int(step))):
        raise ConfigurationError(
            f"`{where}`: expected a `step` above 0, whole between whole numbers and without `log`, found {given!r}."
        )
    return Range(low, high, bool(log), step)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def front(values: Sequence[Sequence[float]], higher_is_better: Sequence[bool]) -> list[int]:
    """Return the numbers of those that no other is better than in one objective, and as good in all (Pareto).

    >>> front([[1.0, 5.0], [2.0, 3.0], [2.0, 4.0]], [False, False])
    [0, 1]
    """
    signs = [-1 if higher else 1 for higher in higher_is_better]
    costs = [[sign * value for sign, value in zip(signs, found, strict=True)] for found in values]

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    return [number for number, cost in enumerate(costs) if not any(beats(other, cost) for other in costs)]
