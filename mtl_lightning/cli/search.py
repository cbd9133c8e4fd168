"""A search over a configuration's keys: where its trials run, what they draw, and which of them is the best."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_lightning.cli import trial
from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.entries import checked
from mtl_lightning.names import did_you_mean
from mtl_lightning.study import found as findings
from mtl_lightning.study import storage as databases
from mtl_lightning.study.grid import Cell, Entry
from mtl_lightning.study.overrides import changed
from mtl_lightning.study.process import FailedError, LostError, run_apart
from mtl_lightning.study.queue import Queue
from mtl_lightning.study.search import Range, combinations
from mtl_lightning.types import ConfigurationError

__all__ = ["EACH_TASK", "Place", "Search", "check_ranges", "read_objectives"]

EACH_TASK = "each_task"
"""An objective: the validation loss of each task."""


@dataclass(frozen=True)
class Place:
    """Where and how trials are run.

    Attributes:
        folder: for the trials' own folders.
        url: of the database.
        cli: the command line that runs them.
        workers: how many at a time.
        threads: of each.
        heartbeat: seconds.
        retry_failed: whether to run failed ones again.
        say: is told of each that ends.
        prefix: of the names of studies.
    """

    folder: Path
    url: str
    cli: type[MultiTaskCLI]
    workers: int
    threads: int
    heartbeat: int
    retry_failed: bool
    say: Callable[[str], None]
    prefix: str = ""


class Slot(Cell):
    """One of so many trials of a search."""

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.entry}, trial {self.seed}"


class End(Entry):
    """A configuration with one end of a range."""

    @property
    def title(self) -> str:
        """What a person calls it."""
        return self.name


@dataclass
class Search:
    """Draws values from ranges, trains with them, and learns from what comes out where to look next.

    Attributes:
        name: of the search.
        config: what the ranges change.
        ranges: by the keys of the configuration.
        objectives: tags of validation metrics; the best by the first one, or the front of several.
        higher_is_better: of each objective.
        trials: their number.
        seed: of what is drawn.
        pruning: whether to give up trials that are worse than the median of others at the same epoch.
    """

    name: str
    config: Mapping[str, Any]
    ranges: Mapping[str, Range]
    objectives: Sequence[str]
    higher_is_better: Sequence[bool]
    trials: int
    seed: int
    pruning: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seeded: bool = False

    def run(self, place: Place) -> list[findings.Tried]:
        """Run what is left of the trials, and return all."""
        import optuna

        what = {"config": self.config, "ranges": repr(self.ranges), "objectives": list(self.objectives)}
        mark = hashlib.sha256(json.dumps([what, self.seed], sort_keys=True, default=str).encode()).hexdigest()[:8]
        study = databases.open_study(
            place.url,
            f"tune {place.prefix}{self.name} {mark}",
            place.heartbeat,
            directions=["maximize" if way else "minimize" for way in self.higher_is_better],
            pruner=optuna.pruners.MedianPruner(),
        )
        every = combinations(self.ranges, self.trials)  # none of which is worth a second trial before all had one
        cells = [
            Slot(f"tune {self.name}", "", number, what, every[number] if number < len(every) else {})
            for number in range(self.trials)
        ]

        def one(cell: Cell, of_study: Any, watch: Callable[[Any], None]) -> dict[str, Any]:
            with self._lock:  # a process draws other values than others, and than before it was started again
                if not self._seeded:
                    seed = 1_000_003 * self.seed + cell.seed
                    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
                    self._seeded = True
                drawn = {key: allowed.draw(of_study, key) for key, allowed in self.ranges.items()}
            of_study.set_user_attr(findings.DRAWN, drawn)
            return self._try(place, cell, of_study, drawn, watch)

        queue = Queue(study, cells, one, place.say, 6.0 * place.heartbeat)
        if place.retry_failed:
            queue.forget_failures()
        return findings.tried(list(queue.work(place.workers).values()))

    def _try(
        self, place: Place, cell: Cell, of_study: Any, drawn: Mapping[str, Any], watch: Callable[[Any], None]
    ) -> dict[str, Any]:
        def answer(told: tuple[int, float]) -> bool:
            of_study.report(told[1], told[0])
            return bool(of_study.should_prune())

        own = place.folder / "trials" / cell.folder
        own.mkdir(parents=True, exist_ok=True)
        config = changed(self.config, drawn)
        try:
            result: dict[str, Any] = run_apart(
                trial.try_out,
                place.cli,
                config,
                own,
                list(self.objectives),
                output=own.with_suffix(".txt"),
                threads=place.threads,
                started=watch,
                answer=answer if self.pruning and len(self.objectives) == 1 else None,
            )
        except FailedError as error:
            raise FailedError(trial.without_name(error)) from None
        said = [f"{tag} {value:.4g}" for tag, value in zip(self.objectives, result["values"], strict=False)]
        return {**result, "told": ", ".join(said) or "given up"}

    def best(self, found: Sequence[findings.Tried]) -> list[dict[str, Any]]:
        """Return the configurations of the best trial, or of the front."""
        return [changed(self.config, one.drawn) for one in findings.best(found, self.higher_is_better)]


def read_objectives(
    objective: str | Sequence[str],
    said: Mapping[str, bool],
    config: Mapping[str, Any],
    files: Sequence[str],
    cli: type[MultiTaskCLI],
) -> tuple[list[str], list[bool]]:
    """Return the tags of objectives, and whether higher is better.

    Args:
        objective: a tag, several, or :data:`EACH_TASK`.
        said: which way is better, by tag.
        config: in which they are measured.
        files: that it was made of.
        cli: the command line that runs it.

    Raises:
        ConfigurationError: for tags that validation does not have, or whose better way nobody says.
    """
    try:
        known: dict[str, bool | None] = run_apart(trial.directions, cli, dict(config), list(files))
    except (FailedError, LostError) as error:
        raise ConfigurationError(f"`base`: {trial.without_name(error)}") from None
    each = [tag for tag in known if tag.startswith("val/loss/")]
    tags = each if objective == EACH_TASK else [objective] if isinstance(objective, str) else list(objective)
    for tag in tags:
        if tag not in known and tag not in said:
            raise ConfigurationError(
                f"`objective`: expected a metric of validation, found {tag!r}.{did_you_mean(tag, known)} Of "
                "another one say in `higher_is_better` which way is better."
            )
    ways = [said.get(tag, known.get(tag)) for tag in tags]
    if not tags or len({*tags}) < len(tags) or None in ways:
        raise ConfigurationError(
            f"`objective`: expected different metrics that say which way is better, found {tags}. Say it in "
            "`higher_is_better`."
        )
    return tags, [bool(way) for way in ways]


def check_ranges(title: str, config: Mapping[str, Any], ranges: Mapping[str, Range], cli: type[MultiTaskCLI]) -> None:
    """Build the configuration with both ends of each range, and with each choice, and train nothing.

    Raises:
        ConfigurationError: that names what cannot be built.
    """
    ends = [
        End(f"{title} with {key}: {value}", changed(config, {key: value}), [0])
        for key, allowed in ranges.items()
        for value in (allowed.choices or (allowed.low, allowed.high))
    ]
    checked(ends, cli)
