"""What a comparison runs: a cell for each entry and seed, and for each task alone and seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mtl_lightning.study.overrides import changed
from mtl_lightning.types import ConfigurationError

__all__ = ["SINGLE", "Cell", "Entry", "read_entries", "read_seeds", "single_task_config"]

SINGLE = "single-task"
"""What the runs of one task each go by."""

_BY_TASK = ("optimizers", "schedulers", "gradient_clip", "heads")


@dataclass(frozen=True)
class Cell:
    """One trial of a comparison.

    Attributes:
        entry: the entry's name.
        task: of a single-task run, else empty.
        seed: of the run.
        config: all that ``fit`` takes, the seed included.
        params: what Optuna's sampler is not asked for, since it is known.
    """

    entry: str
    task: str
    seed: int
    config: Mapping[str, Any]
    params: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """What tells it from others: also from the same entry before its configuration was changed."""
        text = json.dumps([self.entry, self.task, self.seed, self.config], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.entry}{f' {self.task}' if self.task else ''}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """The name of a folder that is its own."""
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in f"{self.entry}-{self.task}")
        return f"{name.strip('-.')[:60]}-{self.seed}-{self.key[:8]}"


@dataclass(frozen=True)
class Entry:
    """One way to train, to be compared with others.

    Attributes:
        name: what the report calls it.
        config: all that ``fit`` takes.
        seeds: those that it is run with.
        task: of single-task runs, else empty.
        ranges: what a search before the comparison may draw, beside what it may of every entry.
    """

    name: str
    config: Mapping[str, Any]
    seeds: Sequence[int]
    task: str = ""
    ranges: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{SINGLE} runs of {self.task!r}" if self.task else f"entry {self.name!r}"

    def cells(self, seed_keys: Iterable[str]) -> list[Cell]:
        """Return a cell per seed, which the keys are set to."""
        keys = list(seed_keys)
        return [
            Cell(self.name, self.task, seed, changed(self.config, dict.fromkeys(keys, seed))) for seed in self.seeds
        ]


def read_seeds(seeds: int | Sequence[int], where: str = "seeds") -> list[int]:
    """Return seeds: those that are listed, or so many from 0 on.

    Raises:
        ConfigurationError: for none, negative ones, and one that is listed twice.
    """
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found or len({*found}) < len(found) or any(type(seed) is not int or seed < 0 for seed in found):
        raise ConfigurationError(
            f"`{where}`: expected a number of seeds, or a list of different whole numbers from 0 on, found {seeds!r}."
        )
    return found


def read_entries(
    base: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any] | None], seeds: Sequence[int]
) -> list[Entry]:
    """Return the entries that a comparison declares: changes to the base by name, with ``seeds`` and ``ranges`` of
    their own perhaps.

    Raises:
        ConfigurationError: for none, for names that are empty or taken, and for what is no mapping of changes.
    """
    if not entries:
        raise ConfigurationError("`entries`: expected at least one, as `name: {changes}`, found none.")
    read = []
    for name, given in entries.items():
        if not str(name).strip() or str(name) == SINGLE or "\n" in str(name):
            raise ConfigurationError(
                f"`entries`: expected names of one line other than {SINGLE!r}, which the single-task runs go by, found "
                f"{name!r}."
            )
        if not isinstance(given, Mapping | None):
            raise ConfigurationError(f"`entries.{name}`: expected a mapping of changes to the base, found {given!r}.")
        changes = dict(given or {})
        own, ranges = changes.pop("seeds", None), changes.pop("ranges", None) or {}
        if not isinstance(ranges, Mapping):
            raise ConfigurationError(f"`entries.{name}.ranges`: expected ranges by key, found {ranges!r:.100}.")
        chosen = list(seeds) if own is None else read_seeds(own, f"entries.{name}.seeds")
        read.append(Entry(str(name), changed(base, changes), chosen, ranges=ranges))
    return read


def single_task_config(config: Mapping[str, Any], task: str, tasks: Iterable[str]) -> dict[str, Any]:
    """Return a configuration with one task alone: the same network and rates, nothing balanced.

    The other tasks are left out of the data, and what is said of them out of the model.

    Args:
        config: of all tasks; its data has the option ``tasks``.
        task: the one that stays.
        tasks: the names of all.
    """
    others = {name for name in tasks if name != task}
    alone = changed(config, {"data": {"init_args": {"tasks": dict.fromkeys(others)}}})
    model = dict(alone.get("model") or {})
    for name in ("reads", "balancer"):
        model.pop(name, None)
    for name in _BY_TASK:
        if isinstance(model.get(name), Mapping):
            model[name] = {key: part for key, part in model[name].items() if key not in {*others, "balancer"}}
    if isinstance(model.get("allow_unlabelled"), Sequence):
        model["allow_unlabelled"] = [name for name in model["allow_unlabelled"] if name not in others]
    if isinstance(model.get("groups"), Mapping):
        model["groups"] = _groups_without(model["groups"], others)
    return {**alone, "model": model}


def _groups_without(groups: Mapping[str, Any], others: Iterable[str]) -> dict[str, Any]:
    gone = {f"task:{name}" for name in others}
    heads = tuple(f"heads.{name}." for name in others)
    kept = {}
    for name, patterns in groups.items():
        listed = [patterns] if isinstance(patterns, str) else list(patterns)
        if left := [one for one in listed if one not in gone and not str(one).startswith(heads)]:
            kept[name] = left
    return kept
