"""``mtl-lightning tune``: which values of a configuration's keys do best in validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types
from jsonargparse.typing import NonNegativeInt, PositiveInt

from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.entries import read_base, say
from mtl_lightning.cli.search import Place, Search, check_ranges, read_objectives
from mtl_lightning.core.update.best_validation import MONITOR
from mtl_lightning.study import found as findings
from mtl_lightning.study import storage as databases
from mtl_lightning.study.overrides import changed
from mtl_lightning.study.search import read_ranges

__all__ = ["tune"]


def tune(
    base: str | dict[str, Any] | list[str | dict[str, Any]],
    ranges: dict[str, Any],
    objective: str | list[str] = MONITOR,
    trials: PositiveInt = 20,
    pruning: bool = True,
    higher_is_better: dict[str, bool] | None = None,
    seed: NonNegativeInt = 0,
    name: str | None = None,
    folder: str = "search",
    storage: str | None = None,
    workers: PositiveInt = 1,
    threads: PositiveInt = 1,
    heartbeat: PositiveInt = 5,
    retry_failed: bool = False,
    *,
    cli: type[MultiTaskCLI] = MultiTaskCLI,
) -> Path:
    """Look for the values of keys of a config that do best in validation; the test split is left alone.

    Optuna draws the values (TPE). The same command may be started several times, on several machines too if they share
    the database: all take from the same trials. Started again after it was killed, or with more trials, it goes on.

    Args:
        base: what all trials have in common: a config that `fit` takes, its path, or several of either, of which the
            later ones change the earlier.
        ranges: by dotted keys of the config, `{low, high}` with `log: true` or a `step` perhaps, or a list of choices.
        objective: the tag of a metric of validation, such as `val/loss_normalised` or `val/delta_m`, or several tags,
            of which the Pareto front is reported; `each_task` is every task's `val/loss/<task>`.
        trials: their number, of all processes together.
        pruning: with one objective, give up trials that are worse than the median of others at the same epoch.
        higher_is_better: by an objective, where it does not say itself or is wrong.
        seed: of every trial, and of what is drawn.
        name: of the search; by default the folder's.
        folder: where `best.yaml`, the report and the trials' own folders go.
        storage: the address of the database; by default SQLite in the folder.
        workers: how many trials are run at a time by this process.
        threads: of each trial.
        heartbeat: seconds after which a running trial shows that it lives; after three times as many it is lost.
        retry_failed: run trials that have failed again.
        cli: the command line that runs trials, with module classes of its own perhaps.

    Returns:
        The path of `report.md`.

    Raises:
        ConfigurationError: before any trial, for ranges and objectives that cannot be right.
    """
    databases.needs_extra()
    config, files = read_base(base)
    config = changed(config, {"seed_everything": int(seed)})  # the parser's own kind of number cannot be written
    allowed = read_ranges(ranges)
    objectives, ways = read_objectives(objective, higher_is_better or {}, config, files, cli)
    check_ranges("base", config, allowed, cli)
    here = Path(folder)
    here.mkdir(parents=True, exist_ok=True)
    title = name or here.resolve().name
    url = databases.url_of(storage, here)
    place = Place(here, url, cli, workers, threads, heartbeat, retry_failed, say)
    search = Search(title, config, allowed, objectives, ways, trials, seed, pruning)
    found = search.run(place)
    with databases.alone_in(here):  # several processes may end at once
        for old in here.glob("best*.yaml"):
            old.unlink()
        for number, one in enumerate(search.best(found)):
            path = here / (f"best_{number + 1}.yaml" if len(objectives) > 1 else "best.yaml")
            path.write_text(yaml.safe_dump(one, sort_keys=False, allow_unicode=True), encoding="utf-8")
        path = findings.write(found, objectives, ways, title, here)
    say(f"The report is {path}")
    return path
