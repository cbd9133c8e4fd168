"""``mtl-lightning compare``: which entry is better, by how much, and how sure that is."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import get_loader
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from mtl_lightning.cli import trial
from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.study import figures, grid, results
from mtl_lightning.study import storage as databases
from mtl_lightning.study.analysis import analyse
from mtl_lightning.study.overrides import changed
from mtl_lightning.study.process import FailedError, LostError, run_apart
from mtl_lightning.study.queue import Queue
from mtl_lightning.study.report import report
from mtl_lightning.types import ConfigurationError

__all__ = ["checked", "compare", "read_base"]


def compare(
    base: str | dict[str, Any] | list[str | dict[str, Any]],
    entries: dict[str, dict[str, Any] | None],
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
            arguments. `seeds` among them are the entry's own.
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
        weights: whether every metric or every task counts alike in Delta-m.
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
    chosen = grid.read_seeds(seeds)
    declared = grid.read_entries(config, entries, chosen)
    tasks = checked(declared, cli, files)
    every = list(dict.fromkeys(seed for entry in declared for seed in entry.seeds))
    alone = _single_task(config, baselines, tasks, every, cli)
    keys = seed_keys or ["seed_everything"]
    cells = [cell for entry in [*alone, *declared] for cell in entry.cells(keys)]
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    title = name or place.resolve().name
    study = databases.open_study(databases.url_of(storage, place), f"compare {title}", heartbeat)
    queue = Queue(study, cells, partial(_run, cli, place, threads, keep_checkpoints), _say, 6.0 * heartbeat)
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
        "trials": {
            "planned": len(cells),
            "complete": sum(one.state.name == "COMPLETE" for one in trials.values()),
        },
        "notes": [],
    }
    path = write(place, results.table_of(cells, trials, settings))
    _say(f"The report is {path}")
    return path


def write(folder: Path, table: Any) -> Path:
    """Write the results, then the report and the figures from the file of the results; return the report's path."""
    rows, settings = results.read(results.write(table, folder))
    analysis = analyse(rows, settings)
    path = folder / "report.md"
    path.write_text(report(analysis, figures.draw(analysis, folder)), encoding="utf-8")
    return path


def read_base(base: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return a config, and the files that it was made of.

    Raises:
        ConfigurationError: for files that cannot be read as a mapping.
    """
    parts = [base] if isinstance(base, str | Mapping) else list(base)
    config: dict[str, Any] = {}
    for part in parts:
        config = changed(config, part if isinstance(part, Mapping) else _read(part))
    return config, [part for part in parts if isinstance(part, str)]


def _read(file: str) -> Mapping[str, Any]:
    try:
        content = get_loader("yaml")(Path(file).read_text(encoding="utf-8"))
    except Exception as error:  # of the system, or of the parser
        raise ConfigurationError(
            f"`base`: expected a config in YAML at {file}, which cannot be read: {error!s:.300}"
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"`base`: expected a mapping of sections in {file}, found {content!r:.100}.")
    return content


def checked(entries: Sequence[grid.Entry], cli: type[MultiTaskCLI], files: Sequence[str] = ()) -> list[str]:
    """Build what each entry declares, and train nothing; return the tasks, which must be the same ones.

    Raises:
        ConfigurationError: that names the entry which cannot be built.
    """
    first: list[str] | None = None
    for entry in entries:
        tasks = _tasks_of(entry, cli, files)
        first = tasks if first is None else first
        if {*tasks} != {*first}:
            raise ConfigurationError(
                f"{entry.title}: expected the tasks of {entries[0].title}, {first}, found {tasks}: only what does the "
                "same tasks can be compared."
            )
    return first or []


def _tasks_of(entry: grid.Entry, cli: type[MultiTaskCLI], files: Sequence[str] = ()) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            tasks: list[str] = run_apart(trial.check, cli, dict(entry.config), Path(folder), list(files))
        except (FailedError, LostError) as error:
            raise ConfigurationError(f"{entry.title}: {_without_name(error)}") from None
    return tasks


def _single_task(
    config: Mapping[str, Any],
    baselines: bool | Mapping[str, Any],
    tasks: Sequence[str],
    seeds: Sequence[int],
    cli: type[MultiTaskCLI],
) -> list[grid.Entry]:
    """Return a run of each task alone, each of which can be built."""
    if baselines is False or len(tasks) < 2:
        return []
    changes = baselines if isinstance(baselines, Mapping) else {}
    alone = []
    for task in tasks:
        entry = grid.Entry(grid.SINGLE, changed(grid.single_task_config(config, task, tasks), changes), seeds, task)
        try:
            found = _tasks_of(entry, cli)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{error}\nThey are made of the base. Change them by `baselines: {{changes}}`, or leave them out by "
                "`baselines: false`."
            ) from None
        if found != [task]:
            raise ConfigurationError(f"{entry.title}: expected this task alone, found {found}.")
        alone.append(entry)
    return alone


def _run(
    cli: type[MultiTaskCLI],
    folder: Path,
    threads: int,
    keep_checkpoints: bool,
    cell: grid.Cell,
    watch: Callable[[Any], None],
) -> dict[str, Any]:
    """Run a cell in a process of its own."""
    own = folder / "trials" / cell.folder
    own.mkdir(parents=True, exist_ok=True)
    output = own.with_suffix(".txt")
    try:
        result: dict[str, Any] = run_apart(
            trial.run, cli, dict(cell.config), own, keep_checkpoints, output=output, threads=threads, started=watch
        )
    except FailedError as error:
        raise FailedError(_without_name(error)) from None
    return result


def _without_name(error: Exception) -> str:
    """Return a message that is a sentence of ours already."""
    return str(error).removeprefix(f"{ConfigurationError.__name__}: ")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
