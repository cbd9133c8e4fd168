"""What a model card tells of the data, and rows to compare on: read from the data that a checkpoint names."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from mtl_lightning.callbacks import CalibrationMetrics, ConstantMetrics
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.compat import without_advice
from mtl_lightning.core.network.network import inputs_of
from mtl_lightning.data.base import MultiTaskDataModule
from mtl_lightning.errors import CheckpointError, MtlLightningError
from mtl_lightning.export import Facts
from mtl_lightning.export.rows import NUMBER
from mtl_lightning.tasks.base import Task

LONGEST = 20.0
"""Seconds for which the labels of a split are counted."""
SPLITS = ("train", "val", "test")


@dataclass
class Known:
    """What was found.

    Attributes:
        rows: inputs to compare on, or None.
        source: where they are from, in words.
        numbers: rows by split.
        labels: by split and task.
        metrics: of the last stage that could be evaluated.
        baseline: the same of the best constants.
        stage: which stage that was.
        notes: what is missing, and why.
    """

    rows: Any = None
    source: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    stage: str = "test"
    notes: list[str] = field(default_factory=list)

    def facts(self, saved: Mapping[str, Any], intended_use: str) -> Facts:
        """Return what the card tells, with a checkpoint's configuration."""
        data = {key: part for key, part in (saved.get("data") or {}).items() if key != "by_code"}
        return Facts(
            rows=self.numbers,
            labels=self.labels,
            metrics=self.metrics,
            baseline=self.baseline,
            stage=self.stage,
            config={"model": saved["config"], **({"data": data} if data else {})},
            intended_use=intended_use,
            notes=self.notes,
        )


def known_of(module: MultiTaskModule, path: str, saved: Mapping[str, Any], trusted: Sequence[str]) -> Known:
    """Read the data that a checkpoint names; what cannot be read is noted, and missing.

    Args:
        module: the checkpoint's module, which is tested.
        path: the checkpoint.
        saved: our part of it.
        trusted: modules whose classes it may name.
    """
    known = Known()
    if saved.get("data") is None:
        known.notes.append("The checkpoint does not say which data it was trained on.")
        return known
    try:
        data = MultiTaskDataModule.from_checkpoint(path, trusted=trusted, **_whole(saved["data"]))
        for split in SPLITS:
            _count(known, data, module, split)
        known.metrics, known.baseline, known.stage = _tested(module, data)
    except (MtlLightningError, OSError, ImportError) as error:
        line = (str(error).splitlines() or [""])[0]
        known.notes.append(f"The data that it was trained on could not be read here: {line[:300]}")
        if isinstance(error, CheckpointError) and known.rows is None:
            known.notes.append("Numbers of labels and metrics are therefore missing.")
    return known


def _whole(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with which all training rows are seen."""
    return {"drop_last": False} if "drop_last" in (made.get("init_args") or {}) else {}


def _count(known: Known, data: MultiTaskDataModule, module: MultiTaskModule, split: str) -> None:
    """Count the rows and labels of a split, and keep some rows of the last one."""
    loader: Any = getattr(data, f"{split}_dataloader")()
    number, kept, until = 0, [], time.monotonic() + LONGEST
    labels: dict[str, dict[str, int]] = {}
    for batch in loader:
        inputs = inputs_of(batch)
        size = len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)
        if split != "train" and number < NUMBER:
            kept.append(inputs)
        number += size
        for name, target in (batch.get("targets") or {}).items():
            if name in module.tasks:
                _add(labels.setdefault(name, {"labelled": 0}), module.tasks[name], target)
        if time.monotonic() > until:
            known.notes.append(f"The rows and labels of {split} were counted for {LONGEST:.0f} s: there are more.")
            break
    if number:
        known.numbers[split], known.labels[split] = number, labels
    if kept:
        known.rows, known.source = _together(kept), f"of the {split} split"


def _add(counts: dict[str, int], task: Task, target: Tensor) -> None:
    mask = task.labelled(target)
    counts["labelled"] += int(mask.sum())
    decoding = task.decoding()
    names = decoding.get("names", [])
    if decoding["form"] in ("binary", "classes") and mask.shape == target.shape:
        found = torch.bincount(target[mask].long().reshape(-1), minlength=len(names)).tolist()
        for name, number in zip(names, found, strict=False):
            counts[str(name)] = counts.get(str(name), 0) + number


def _together(parts: Iterable[Any]) -> Any:
    first, *_ = parts = list(parts)
    if isinstance(first, Mapping):
        return {name: torch.cat([part[name] for part in parts]) for name in first}
    return torch.cat(parts)


def _tested(module: MultiTaskModule, data: MultiTaskDataModule) -> tuple[dict[str, float], dict[str, float], str]:
    """Return the metrics of a test, and the best constants' on the same rows."""
    constants = ConstantMetrics()
    with warnings.catch_warnings(), without_advice():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[constants, CalibrationMetrics()],
        )
        trainer.test(module, datamodule=data, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return metrics, dict(constants.values), "test"
