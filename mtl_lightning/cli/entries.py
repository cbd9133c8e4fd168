"""What the commands that run many trials share: the base, entries that can be built, and a cell's run."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import get_loader

from mtl_lightning.cli import trial
from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.study import grid
from mtl_lightning.study.overrides import changed
from mtl_lightning.study.process import FailedError, LostError, run_apart
from mtl_lightning.types import ConfigurationError

__all__ = ["checked", "read_base", "read_entries", "run_cell", "say", "single_task"]


def read_base(base: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return a config, and the files that it was made of.

    Raises:
        ConfigurationError: for files that cannot be read as a mapping.
    """
    parts = [base] if isinstance(base, str | Mapping) else list(base)
    config: dict[str, Any] = {}
    for part in parts:
        config = changed(config, part if isinstance(part, Mapping) else _read(part, "base"))
    return config, [part for part in parts if isinstance(part, str)]


def read_entries(
    base: Mapping[str, Any], entries: Mapping[str, str | Mapping[str, Any] | None], seeds: Sequence[int]
) -> list[grid.Entry]:
    """Return the entries that a comparison declares; changes may be in a file, whose path is given.

    Raises:
        ConfigurationError: for files that cannot be read as a mapping, and for what is no entry.
    """
    given = {
        name: _read(changes, f"entries.{name}") if isinstance(changes, str) else changes
        for name, changes in entries.items()
    }
    return grid.read_entries(base, given, seeds)


def _read(file: str, where: str) -> Mapping[str, Any]:
    try:
        content = get_loader("yaml")(Path(file).read_text(encoding="utf-8"))
    except Exception as error:  # of the system, or of the parser
        raise ConfigurationError(
            f"`{where}`: expected a config in YAML at {file}, which cannot be read: {error!s:.300}"
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"`{where}`: expected a mapping of sections in {file}, found {content!r:.100}.")
    return content


def say(text: str) -> None:
    """Tell whoever started the command, at once, also where the output is a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def checked(entries: Sequence[grid.Entry], cli: type[MultiTaskCLI], files: Sequence[str] = ()) -> list[str]:
    """Build what each entry declares, and train nothing; return the tasks, which must be the same ones.

    Raises:
        ConfigurationError: that names the entry which cannot be built.
    """
    found = _tasks_of(entries, cli, files)
    first = found[entries[0].title]
    for name, tasks in found.items():
        if {*tasks} != {*first}:
            raise ConfigurationError(
                f"{name}: expected the tasks of {entries[0].title}, {first}, found {tasks}: only what does the same "
                "tasks can be compared."
            )
    return first


def single_task(
    config: Mapping[str, Any],
    changes: Mapping[str, Any],
    tasks: Sequence[str],
    seeds: Sequence[int],
    cli: type[MultiTaskCLI],
) -> list[grid.Entry]:
    """Return a run of each task alone, each of which can be built.

    Args:
        config: of all tasks.
        changes: to each of these runs.
        tasks: the names of all.
        seeds: those to run each with.
        cli: the command line that runs them.

    Raises:
        ConfigurationError: if one cannot be built.
    """
    alone = [
        grid.Entry(grid.SINGLE, changed(grid.single_task_config(config, task, tasks), changes), seeds, task)
        for task in tasks
    ]
    try:
        found = _tasks_of(alone, cli)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}\nThese runs are made of the base. Change them by `baselines: {{changes}}`, or leave them out by "
            "`baselines: false`."
        ) from None
    for entry in alone:
        if found[entry.title] != [entry.task]:
            raise ConfigurationError(f"{entry.title}: expected this task alone, found {found[entry.title]}.")
    return alone


def _tasks_of(
    entries: Sequence[grid.Entry], cli: type[MultiTaskCLI], files: Sequence[str] = ()
) -> dict[str, list[str]]:
    configs = {entry.title: dict(entry.config) for entry in entries}
    try:
        found: dict[str, list[str]] = run_apart(trial.check, cli, configs, list(files))
    except (FailedError, LostError) as error:
        raise ConfigurationError(trial.without_name(error)) from None
    return found


def run_cell(
    cli: type[MultiTaskCLI],
    folder: Path,
    threads: int,
    keep_checkpoints: bool,
    cell: grid.Cell,
    _: Any,
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
        raise FailedError(trial.without_name(error)) from None
    score = result["score"]
    told = "no validation" if score is None else f"{result['chosen_by']} {score:.4g} in epoch {result['epoch']}"
    values = [math.inf if score is None or math.isnan(score) else score]  # for who looks at the study
    return {**result, "values": values, "told": told}
