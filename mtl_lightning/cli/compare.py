"""``mtl-lightning compare``: which entry is better, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.entries import checked, read_base, read_entries, run_cell, say, single_task
from mtl_lightning.cli.search import Place
from mtl_lightning.cli.tuning import Tuning, tuned
from mtl_lightning.names import did_you_mean
from mtl_lightning.study import figures, grid, results
from mtl_lightning.study import storage as databases
from mtl_lightning.study.analysis import analyse
from mtl_lightning.study.queue import Queue
from mtl_lightning.study.report import report
from mtl_lightning.types import ConfigurationError

__all__ = ["compare", "write"]


def compare(
    base: str | dict[str, Any] | list[str | dict[str, Any]],
    entries: dict[str, str | dict[str, Any] | None],
    baselines: bool | dict[str, Any] = True,
    seeds: PositiveInt | list[int] = 3,
    seed_keys: list[str] | None = None,
    name: str | None = None,
    folder: str = "comparison",
    storage: str | None = None,
    workers: PositiveInt = 1,
    threads: PositiveInt = 1,
    confidence: ClosedUnitInterval = 0.95,
    metrics: list[str] | None = None,
    higher_is_better: dict[str, bool] | None = None,
    weights: Literal["metric", "task"] = "metric",
    against: str | None = None,
    spread: Literal["each", "pooled"] = "each",
    tune: Tuning | None = None,
    heartbeat: PositiveInt = 5,
    retry_failed: bool = False,
    keep_checkpoints: bool = False,
    *,
    cli: type[MultiTaskCLI] = MultiTaskCLI,
) -> Path:
    """Train every entry with every seed, and say which is better, by how much, and how sure that is.

    Each entry and seed is one trial: it trains, chooses its epoch in validation, and is tested. The same command may be
    started several times, on several machines too if they share the database: each takes trials from the same grid,
    and the last to end writes the report. Started again after it was killed, it goes on; with more seeds or entries it
    runs what is new.

    Args:
        base: what all have in common: a config that `fit` takes, its path, or several of either, of which the later
            ones change the earlier.
        entries: changes to the base by the entry's name, as nested or dotted keys; another `class_path` brings its own
            arguments. `seeds` and, for `tune`, `ranges` among them are the entry's own. Or the path of a file with
            changes, such as the `split.yaml` of `TaskAffinity`.
        baselines: run each task alone as well: the base without the other tasks and without a balancer. A mapping
            holds changes to these runs.
        seeds: their number, or a list.
        seed_keys: what is set to the seed; by default `seed_everything`. Add `data.init_args.seed` to draw the data
            anew with each seed.
        name: of the comparison; by default the folder's.
        folder: where results, report, figures and the trials' own folders go.
        storage: the address of the database; by default SQLite in the folder.
        workers: how many trials are run at a time by this process.
        threads: of each trial, whatever the number of workers, since sums depend on it.
        confidence: the level of the intervals of one table together.
        metrics: names of those that Delta-m and ranks count; by default all but the loss.
        higher_is_better: by a metric's name, where it does not say itself or is wrong.
        tune: tune every entry first, and every single-task network, each with as many trials.
        weights: whether every metric or every task counts alike in Delta-m.
        against: the entry that all others are compared with; by default each is with each, which are many more
            intervals to hold together.
        spread: of a difference between entries from seed to seed: its own, or one pooled over all entries, which tells
            more with few seeds where entries vary alike.
        heartbeat: seconds after which a running trial shows that it lives; after three times as many it is lost.
        retry_failed: run trials that have failed again.
        keep_checkpoints: leave the checkpoints of trials that have ended.
        cli: the command line that runs trials, with module classes of its own perhaps.

    Returns:
        The path of `report.md`.

    Raises:
        ConfigurationError: before any trial, for an entry that cannot be built, naming it, and for options that cannot
            be right.
    """
    databases.needs_extra()
    if not 0 < confidence < 1:
        raise ConfigurationError(f"`confidence`: expected a number above 0 and below 1, found {confidence}.")
    config, files = read_base(base)
    if against is not None and against not in entries:
        raise ConfigurationError(
            f"`against`: expected the name of an entry, found {against!r}.{did_you_mean(against, entries)}"
        )
    chosen = grid.read_seeds(seeds)
    declared = read_entries(config, entries, chosen)
    tasks = checked(declared, cli, files)
    every = list(dict.fromkeys(seed for entry in declared for seed in entry.seeds))
    wanted = baselines is not False and len(tasks) > 1
    changes = baselines if isinstance(baselines, Mapping) else {}
    alone = single_task(config, changes, tasks, every, cli) if wanted else []
    keys = seed_keys or ["seed_everything"]
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    title, url = name or place.resolve().name, databases.url_of(storage, place)
    ways, told = [*alone, *declared], dict[str, Any]()
    if tune is not None:
        tuning = Tuning(**tune) if isinstance(tune, Mapping) else tune
        where = Place(place / "tune", url, cli, workers, threads, heartbeat, retry_failed, say, f"{title} ")
        ways, told = tuned(tuning, ways, config, tasks, keys, where)
    cells = [cell for entry in ways for cell in entry.cells(keys)]
    study = databases.open_study(url, f"compare {title}", heartbeat)
    queue = Queue(study, cells, partial(run_cell, cli, place, threads, keep_checkpoints), say, 6.0 * heartbeat)
    if retry_failed:
        queue.forget_failures()
    trials = queue.work(workers)
    settings = {
        "name": title,
        "entries": [entry.name for entry in declared],
        "baselines": bool(alone),
        "confidence": confidence,
        "metrics": metrics,
        "higher_is_better": higher_is_better,
        "weights": weights,
        "against": against,
        "spread": spread,
        "trials": {
            "planned": len(cells),
            "complete": sum(one.state.name == "COMPLETE" for one in trials.values()),
        },
        "tuned": told,
    }
    path = write(place, results.table_of(cells, trials, settings))
    say(f"The report is {path}")
    return path


def write(folder: Path, table: Any) -> Path:
    """Write the results, then the report and the figures from the file of the results; return the report's path."""
    path = folder / "report.md"
    with databases.alone_in(folder):  # several processes may end at once
        rows, settings = results.read(results.write(table, folder))
        analysis = analyse(rows, settings)
        path.write_text(report(analysis, figures.draw(analysis, folder)), encoding="utf-8")
    return path
