"""The table of test metrics."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from mtl_lightning.callbacks import ConstantMetrics
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.tasks.base import Task
from mtl_lightning.text_table import by_task, tables


def metrics_table(trainer: Trainer, module: MultiTaskModule) -> str:
    """Return the last test's metrics as text: a row per task, a column per metric, all in original units.

    Behind each value that :class:`~mtl_lightning.callbacks.ConstantMetrics` has scored, the best constant's is in
    brackets. ``labels`` is the number, or the weight, of labelled elements; ``units`` are the target's.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
    constants = next((c.values for c in callbacks if isinstance(c, ConstantMetrics)), {})
    found, compared = (by_task(some, "test", module.tasks) for some in (trainer.callback_metrics, constants))
    sigmas = module.sigmas(original_units=True)
    any_units = any(module.tasks[name].spec.units for name in found)
    rows: dict[str, dict[str, str]] = {}
    for name, values in found.items():
        task = module.tasks[name]
        scale = _scale_of_loss(task) or 1.0
        rows[name] = {metric: _count(value) for metric, value in values.items() if _last(metric) == "labels"}
        rows[name] |= {"units": task.spec.units or "-"} if any_units else {}
        for metric, value in values.items():
            if _last(metric) != "labels":
                factor = scale if _last(metric) == "loss" else 1.0
                constant = compared.get(name, {}).get(metric)
                rows[name][metric] = f"{value * factor:.4g}" + (
                    "" if constant is None else f" ({constant * factor:.4g})"
                )
        if sigmas:
            rows[name]["sigma"] = f"{sigmas[name]:.4g}" if name in sigmas else "-"
    notes = (
        ["In brackets: what the best constant for the training labels reaches on the same rows."] if compared else []
    )
    if unlike := [name for name in found if _scale_of_loss(module.tasks[name]) is None]:
        notes.append(f"In units of its own, since no one number converts it: the loss of {', '.join(unlike)}.")
    return "\n".join([tables(rows), *notes])


def _scale_of_loss(task: Task) -> float | None:
    """Return a unit of the loss in the target's units (squared, of a squared error); None where no one number does.

    A loss whose likelihood has a variance is of the second degree in the residual, one with a scale of the first.
    """
    scale = task.target_scale
    return None if scale is None else scale**2 if task.likelihood.scale == "log_var" else scale


def _count(labels: float) -> str:
    return str(int(labels)) if labels == int(labels) else f"{labels:.6g}"


def _last(metric: str) -> str:
    """Return a metric's name without that of its dataloader."""
    return metric.rpartition("/")[2]
