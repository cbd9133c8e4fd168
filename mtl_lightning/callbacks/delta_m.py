"""Delta-m as a metric of validation and test: how a model compares with single-task baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from mtl_lightning.callbacks.baselines import read_baselines
from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.evaluation import DerivedMetrics
from mtl_lightning.metrics import DeltaM
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError, MtlLightningWarning

_STAGES = {"fit": ("val",), "validate": ("val",), "test": ("test",)}


class LogDeltaM(Ranged, DerivedMetrics):
    """Logs ``val/delta_m``, and ``val/delta_m/<task>``, the mean over the task's metrics; ``test/...`` likewise.

    In per cent of single-task baselines, by :func:`~mtl_lightning.metrics.delta_m`, which says what the conventions
    are and who uses them; by default lower is better and below 0 is better than single-task training. Checkpoints,
    early stopping and plateau schedulers can monitor it. Which way a metric is better is what it says itself
    (``higher_is_better`` of torchmetrics); lower losses are better.

    A stage that has no baseline at all is left out; one that has only some of them is an error before the first batch.
    An epoch in which a task has no label has no Delta-m.

    Args:
        baselines: the single-task value of each ``val/<metric>/<task>`` (and ``test/...``), by this tag: a dict, or the
            path of a YAML file, such as :class:`~mtl_lightning.callbacks.BaselineWriter` writes. Without any, nothing
            is logged.
        metrics: names of the metrics that count, of the tasks that have them; by default all but the loss. ``"loss"``
            may be among them.
        higher_is_better: by a metric's name, where it does not say itself or is wrong.
        weights: ``"metric"``: every metric counts alike; ``"task"``: every task does.
        sign: ``"drop"``: lower is better; ``"gain"``: higher is better.

    Raises:
        ConfigurationError: at ``setup``, for baselines that are missing or 0, and for metrics that no task has or that
            do not say which way is better, naming them; and for a module that is no ``MultiTaskModule``.
    """

    def __init__(
        self,
        baselines: str | Path | dict[str, float] | None = None,
        metrics: list[str] | None = None,
        higher_is_better: dict[str, bool] | None = None,
        weights: Literal["metric", "task"] = "metric",
        sign: Literal["drop", "gain"] = "drop",
    ) -> None:
        self.baselines = baselines
        self.metrics = None if metrics is None else list(metrics)
        self.higher_is_better = dict(higher_is_better or {})
        self.weights, self.sign = weights, sign
        self._delta: dict[str, DeltaM] = {}
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the baseline of every metric."""
        module = multi_task(pl_module, self)
        self._warned = False
        if self.baselines is None:
            return
        given = self.baselines if isinstance(self.baselines, Mapping) else read_baselines(self.baselines)
        self._delta = {}
        for name in _STAGES.get(stage, ()):
            ways = self._ways(module, name)
            known = {tag: float(given[tag]) for tag in ways if tag in given}
            if not known and given and not any(tag.startswith(f"{name}/") for tag in given):
                rank_zero_info(f"LogDeltaM: no {name}/delta_m, since there is no baseline of that stage.")
                continue
            if missing := [tag for tag in ways if tag not in known]:
                raise ConfigurationError(
                    f"LogDeltaM: expected a baseline of every metric, found none of {missing}. Write them by "
                    "single-task runs (`--baseline_writer.path`), or choose the `metrics` that count."
                )
            self._delta[name] = DeltaM(known, ways, weights=self.weights, sign=self.sign)

    def derive(self, module: LightningModule, stage: str, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Compare with the baselines."""
        delta = self._delta.get(stage)
        if delta is None:
            return {}
        if missing := [tag for tag in delta.names if tag not in values]:
            if not self._warned and not module.trainer.sanity_checking:
                self._warned = True
                rank_zero_warn(
                    f"LogDeltaM: no {stage}/delta_m, since there is no value of {missing}: the tasks have no label "
                    "here, or are in several dataloaders.",
                    category=MtlLightningWarning,
                )
            return {}
        delta.to(module.device)
        delta.reset()
        delta.update(values)
        found = {f"{stage}/delta_m/{task}": value for task, value in delta.by_task().items()}
        return {f"{stage}/delta_m": delta.compute(), **found}

    def _ways(self, module: MultiTaskModule, stage: str) -> dict[str, bool]:
        """Return the tags that count, and whether higher is better."""
        named: dict[str, Any] = {}
        for task, part in module.tasks.items():
            every = {"loss": False, **{n: metric.higher_is_better for n, metric in part.metrics(stage).items()}}
            chosen = [name for name in every if (name != "loss" if self.metrics is None else name in self.metrics)]
            named |= {f"{stage}/{n}/{task}": self.higher_is_better.get(n, every[n]) for n in chosen}
        if unknown := [n for n in self.metrics or [] if not any(tag.startswith(f"{stage}/{n}/") for tag in named)]:
            raise ConfigurationError(f"LogDeltaM: expected in `metrics` names that a task has, found {unknown}.")
        if unsaid := [tag for tag, way in named.items() if way is None]:
            raise ConfigurationError(
                f"LogDeltaM: expected metrics that say which way is better, found {unsaid}. Say it in "
                "`higher_is_better`, or choose other `metrics`."
            )
        return {tag: bool(way) for tag, way in named.items()}
