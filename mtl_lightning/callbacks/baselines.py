"""The metrics of single-task runs in one YAML file, for Delta-m to compare with."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError

_NO_METRICS = ("labels", "delta_m")
_HEADER = "# Metrics of single-task runs, by tag. `delta_m: {baselines: <this file>}` compares other runs with them.\n"


class BaselineWriter(Ranged, Callback):
    """Writes a run's ``val/<metric>/<task>`` and ``test/<metric>/<task>`` into a YAML file of baselines.

    One run per task, each with the same ``path``, makes the file that :class:`~mtl_lightning.callbacks.LogDeltaM`
    reads::

        mtl-lightning fit --config left_only.yaml --baseline_writer.path baselines.yaml
        mtl-lightning fit --config right_only.yaml --baseline_writer.path baselines.yaml
        mtl-lightning fit --config both.yaml --delta_m.baselines baselines.yaml

    Entries that a run does not have stay as they are, others are replaced; runs may write at the same time. The file is
    written anew each time, its entries in order: comments in it, and another order, are lost.

    After ``fit`` it is the last validation that counts, whichever epoch was the best: run ``validate`` with a
    checkpoint's path to write that one. Losses are written too, as ``val/loss/<task>``; Delta-m leaves them out unless
    it is told otherwise. Values that are not finite are not written.

    Args:
        path: of the file; without one nothing is written.

    Raises:
        ConfigurationError: for a file that holds something else, and at ``setup`` for a module that is no
            ``MultiTaskModule``.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and a file that holds something else."""
        multi_task(pl_module, self)
        if self.path is not None and self.path.exists():
            read_baselines(self.path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last validation's metrics."""
        self._write(trainer, pl_module, "val/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics of a validation that was asked for by itself."""
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the test's metrics."""
        self._write(trainer, pl_module, "test/")

    def _write(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.path is None or not trainer.is_global_zero:
            return
        tasks = multi_task(pl_module, self).tasks
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(stage)}
        mine = {
            name: value
            for name, value in found.items()
            if name.rpartition("/")[2] in tasks and name.split("/")[1] not in _NO_METRICS and math.isfinite(value)
        }
        if mine:
            merge_baselines(self.path, mine)
            rank_zero_info(f"{len(mine)} baselines are in {self.path}.")


def read_baselines(path: str | Path) -> dict[str, float]:
    """Read a file of baselines: numbers by tag.

    Raises:
        ConfigurationError: if there is none, or it holds something else.
    """
    try:
        content: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"Expected a YAML file of baselines at {path}, which cannot be read: {error}. Single-task runs write it: "
            "`--baseline_writer.path`."
        ) from error
    numbers = content if isinstance(content, dict) else {}
    wrong = {name: v for name, v in numbers.items() if not isinstance(v, int | float) or isinstance(v, bool)}
    if wrong or not isinstance(content, dict | None):
        raise ConfigurationError(
            f"Expected numbers by tag, such as 'val/accuracy/left: 0.9', in {path}, found {wrong or content!r}."
        )
    return {str(name): float(value) for name, value in numbers.items()}


def merge_baselines(path: Path, values: Mapping[str, float]) -> None:
    """Put values into a file of baselines, which is whole at any time, and may be written by several runs at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        merged = {**(read_baselines(path) if path.exists() else {}), **values}
        part = path.with_name(f".{path.name}.part")
        part.write_text(_HEADER + yaml.safe_dump(merged, sort_keys=True), encoding="utf-8")
        os.replace(part, path)
