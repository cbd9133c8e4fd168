"""What a comparison does first if it is told to: tune every entry, with an equal budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from mtl_lightning.cli.search import Place, Search, check_ranges, read_objectives
from mtl_lightning.core.update.best_validation import MONITOR
from mtl_lightning.study import found as findings
from mtl_lightning.study.grid import Entry, single_task_config
from mtl_lightning.study.overrides import changed
from mtl_lightning.study.search import Range, read_ranges
from mtl_lightning.types import ConfigurationError

__all__ = ["Tuning", "tuned"]


@dataclass(frozen=True)
class Tuning:
    """A search for each entry before it is compared, all with as many trials.

    Attributes:
        trials: of each entry, and of each single-task network.
        ranges: of keys of the config, as of ``mtl-lightning tune``. An entry's own ``ranges`` come on top; null takes
            one away. A single-task network has those that make a difference to it.
        objective: the tag of a metric of validation that every network has.
        pruning: give up trials that are worse than the median of others at the same epoch.
        seed: of what is drawn, and of every trial.
    """

    trials: PositiveInt
    ranges: dict[str, Any]
    objective: str = MONITOR
    pruning: bool = True
    seed: NonNegativeInt = 0


def tuned(
    tuning: Tuning,
    entries: Sequence[Entry],
    base: Mapping[str, Any],
    tasks: Sequence[str],
    keys: Sequence[str],
    place: Place,
) -> tuple[list[Entry], dict[str, Any]]:
    """Return the entries with the values that did best in validation, and what these are by the entries' titles.

    An entry of which no trial ended well stays as it is.

    Args:
        tuning: how.
        entries: single-task networks among them.
        base: of the comparison.
        tasks: all of them.
        keys: what is set to the seed.
        place: where trials run.

    Raises:
        ConfigurationError: before any trial, for ranges and an objective that cannot be right.
    """
    searches = []
    for entry in entries:
        given = {**tuning.ranges, **entry.ranges}
        ranges = read_ranges({key: one for key, one in given.items() if one is not None}, "tune.ranges")
        if entry.task:
            ranges = {key: one for key, one in ranges.items() if _matters(key, one, base, entry.task, tasks)}
        config = changed(entry.config, dict.fromkeys(keys, int(tuning.seed)))  # the parser's own kind cannot be written
        if not ranges:
            raise ConfigurationError(f"{entry.title}: expected a range that makes a difference, found {sorted(given)}.")
        check_ranges(entry.title, config, ranges, place.cli)
        objectives, ways = read_objectives(tuning.objective, {}, config, [], place.cli)
        name = f"{entry.name} {entry.task}".strip()
        searches.append(Search(name, config, ranges, objectives, ways, tuning.trials, tuning.seed, tuning.pruning))
    result, told = [], {}
    for entry, search in zip(entries, searches, strict=True):
        found = search.run(place)
        chosen = findings.best(found, search.higher_is_better)
        drawn = dict(chosen[0].drawn) if chosen else {}
        told[search.name] = {
            "trials": len(found),
            "well": sum(one.state == "complete" for one in found),
            "objective": search.objectives[0],
            "value": chosen[0].values[0] if chosen else None,
            "drawn": drawn,
        }
        result.append(dataclasses.replace(entry, config=changed(entry.config, drawn)))
    return result, told


def _matters(key: str, allowed: Range, base: Mapping[str, Any], task: str, tasks: Sequence[str]) -> bool:
    """Whether a key makes a difference to a task's network."""
    ends = allowed.choices or (allowed.low, allowed.high)
    alone = [single_task_config(changed(base, {key: end}), task, tasks) for end in ends]
    return any(one != alone[0] for one in alone)
