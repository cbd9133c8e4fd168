"""One trial of a comparison or a search: `fit`, then the best epoch's metrics, as plain data."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]  # it ships no types
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mtl_lightning.checkpoint_file import read_plain
from mtl_lightning.cli import failures
from mtl_lightning.cli.command_line import MultiTaskCLI
from mtl_lightning.cli.trial_program import Check, Pruning, Trial
from mtl_lightning.core import MultiTaskModule, compat
from mtl_lightning.names import did_you_mean
from mtl_lightning.types import ConfigurationError

__all__ = ["check", "directions", "run", "try_out", "without_name"]

LENGTH = 10_000  # updates and epochs of a run, as far as schedulers are concerned that are made to see if they can be


def check(
    cli: type[MultiTaskCLI], configs: Mapping[str, Mapping[str, Any]], files: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Make the data, the module and the trainer of configurations; return their tasks' names.

    Args:
        cli: the command line that is to run them.
        configs: all that ``fit`` takes, by what a message calls it.
        files: that they were made of, to be looked at first.

    Raises:
        ConfigurationError: one sentence, of the first one that cannot be made.
    """
    tasks = {}
    for name, config in configs.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = _made(Check, cli, config, Path(folder), files).model
                if isinstance(model, MultiTaskModule) and model.is_built:  # else sizes wait for the first batch
                    model.find_roles()
                    model.plan.assign(model.roles)
                    model.plan.make(model, lambda _: LENGTH)
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}: {without_name(error)}") from error
        if not isinstance(model, MultiTaskModule):
            raise ConfigurationError(f"{name}: expected a MultiTaskModule, found {type(model).__name__}.")
        tasks[name] = list(model.tasks)
    return tasks


def directions(cli: type[MultiTaskCLI], config: Mapping[str, Any], files: Iterable[str] = ()) -> dict[str, bool | None]:
    """Return of what validation measures whether higher is better, by its tag; None where it does not say.

    Args:
        cli: the command line that is to run it.
        config: all that ``fit`` takes.
        files: that it was made of, to be looked at first.

    Raises:
        ConfigurationError: one sentence, if it cannot be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        tasks = _made(Check, cli, config, Path(folder), files).model.tasks
    losses = {f"val/{name}": False for name in ("loss", "loss_normalised", "objective", "delta_m")}
    of_tasks = {f"val/{name}/{task}": False for task in tasks for name in ("loss", "delta_m")}
    ways = {
        f"val/{name}/{task}": metric.higher_is_better
        for task, part in tasks.items()
        for name, metric in part.metrics("val").items()
    }
    return {**losses, **of_tasks, **ways}


def without_name(error: Exception) -> str:
    """Return the message of an error that is a sentence of ours, without our error's name."""
    return str(error).removeprefix(f"{ConfigurationError.__name__}: ")


def run(
    cli: type[MultiTaskCLI], config: Mapping[str, Any], folder: Path, keep_checkpoints: bool = False
) -> dict[str, Any]:
    """Train, choose the epoch in validation, and return what validation and test say of that epoch.

    Args:
        cli: the command line that runs it.
        config: all that ``fit`` takes.
        folder: of the trial alone; what is in it is removed first.
        keep_checkpoints: whether to leave the checkpoints there.

    Returns:
        ``rows``, each with ``split``, ``task``, ``metric``, ``value`` and ``higher_is_better`` (None: unknown);
        ``epoch``, the one that was tested, counted from 0; ``chosen_by``, what chose it, or None if there was no
        validation and the last counts; ``score``, its value; ``seconds_per_step``, the median of an update's;
        ``peak_memory`` in bytes, and ``memory``, what of; ``parameters``, their number; ``seconds`` of it all.

    Raises:
        ConfigurationError: one sentence, of whatever went wrong.
    """
    begun = time.perf_counter()
    trial = _trained(cli, config, folder)
    trainer, model = trial.trainer, trial.model
    on_gpu = model.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else _resident()
    best, path = _best(trainer)
    rows = _rows(model, "val", _evaluated(trial, "validate", path)) if trainer.enable_validation else []
    rows += _rows(model, "test", _evaluated(trial, "test", path))
    if not any(row["split"] == "test" for row in rows):
        raise ConfigurationError("Expected test metrics to compare, found none: the data has no labelled test rows.")
    epoch = read_plain(compat.part_file(path)).get("epoch") if path else None
    if not keep_checkpoints:
        _remove_checkpoints(folder)
    score = best.best_model_score if best else None
    return {
        "rows": rows,
        "epoch": epoch,
        "chosen_by": best.monitor if best and score is not None else None,
        "score": None if score is None else float(score),
        "seconds_per_step": trial.clock.median(),
        "peak_memory": int(peak),
        "memory": "GPU, allocated" if on_gpu else "process, resident",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": time.perf_counter() - begun,
    }


def try_out(
    cli: type[MultiTaskCLI],
    config: Mapping[str, Any],
    folder: Path,
    objectives: Sequence[str],
    ask: Callable[[Any], Any] | None = None,
) -> dict[str, Any]:
    """Train, choose the epoch in validation, and return what validation says of that epoch; the test is left alone.

    Args:
        cli: the command line that runs it.
        config: all that ``fit`` takes.
        folder: of the trial alone; what is in it is removed first.
        objectives: tags of validation metrics.
        ask: told (epoch, value of the first objective) after each validation; returns whether to give up.

    Returns:
        ``values`` of the objectives; ``given_up``, whether it was; ``epoch``, counted from 0; ``seconds`` of it all.

    Raises:
        ConfigurationError: one sentence, of whatever went wrong.
    """
    begun = time.perf_counter()
    pruning = Pruning(objectives[0], ask)
    trial = _trained(cli, config, folder, [pruning])
    _, path = _best(trial.trainer)
    metrics = {} if pruning.given_up else _evaluated(trial, "validate", path)
    if missing := [tag for tag in objectives if tag not in metrics and not pruning.given_up]:
        raise ConfigurationError(
            f"`objective`: expected a metric of validation, found {missing[0]!r}.{did_you_mean(missing[0], metrics)}"
        )
    values = [float(metrics[tag]) for tag in objectives if tag in metrics]
    if wrong := [tag for tag, value in zip(objectives, values, strict=False) if not math.isfinite(value)]:
        raise ConfigurationError(f"`objective`: expected finite numbers, found none of {wrong[0]!r}.")
    epoch = read_plain(compat.part_file(path)).get("epoch") if path else None
    _remove_checkpoints(folder)
    return {
        "values": values,
        "given_up": pruning.given_up,
        "epoch": epoch,
        "seconds": time.perf_counter() - begun,
    }


def _trained(
    cli: type[MultiTaskCLI], config: Mapping[str, Any], folder: Path, callbacks: Sequence[Callback] = ()
) -> Any:
    shutil.rmtree(folder, ignore_errors=True)
    trial = _made(Trial, cli, config, folder, callbacks=callbacks)
    if trial.trainer.interrupted:
        raise ConfigurationError("The training was interrupted.")
    return trial


def _best(trainer: Trainer) -> tuple[ModelCheckpoint | None, str]:
    """Return who chose the best epoch, and the path of its checkpoint; of the last one if there was no validation."""
    checkpoints = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    best = next((one for one in checkpoints if one.monitor and one.best_model_path), None)
    return best, best.best_model_path if best else next((one.last_model_path for one in checkpoints), "")


def _evaluated(trial: Any, how: str, path: str) -> dict[str, Tensor]:
    """Return the metrics of a checkpoint in validation or test."""
    try:
        run = getattr(trial.trainer, how)
        run(trial.model, datamodule=trial.datamodule, ckpt_path=path or None, verbose=False)
    except Exception as error:
        raise ConfigurationError(failures.sentence(error)) from error
    return dict(trial.trainer.callback_metrics)


def _remove_checkpoints(folder: Path) -> None:
    for file in folder.rglob("*.ckpt"):
        file.unlink()


def _made(
    kind: type[Trial],
    cli: type[MultiTaskCLI],
    config: Mapping[str, Any],
    folder: Path,
    files: Iterable[str] = (),
    callbacks: Iterable[Callback] = (),
) -> Any:
    """Run a command line of a kind on a configuration, which is written beside what it writes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    sys.argv = ["mtl-lightning", "fit", "--config", str(path)]
    made = type(kind.__name__, (kind, cli), {"folder": folder, "files": tuple(files), "added": tuple(callbacks)})
    try:
        return made()
    except Exception as error:
        raise ConfigurationError(failures.sentence(error)) from error


def _rows(module: MultiTaskModule, split: str, metrics: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Return what a split's metrics are of each task."""
    rows = []
    ways = {
        (name, metric): one.higher_is_better
        for name, task in module.tasks.items()
        for metric, one in task.metrics(split).items()
    }
    for tag, value in metrics.items():
        stage, *metric, task = tag.split("/")
        name = "/".join(metric)
        if stage == split and task in module.tasks and name and name not in ("labels", "delta_m"):
            way = False if name == "loss" else ways.get((task, name))
            rows.append({"split": split, "task": task, "metric": name, "value": float(value), "higher_is_better": way})
    return rows


def _resident() -> int:
    """Return the most memory that this process has had, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
