"""Metrics of groups of rows, such as the rows of one user."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.callbacks.groups import Groups
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.evaluation import DerivedMetrics
from mtl_lightning.core.spectators import Spectator
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.metrics.grouped import GroupedMetric
from mtl_lightning.names import known_name
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import Batch, ConfigurationError, TableSpec


class GroupedMetrics(Ranged, DerivedMetrics, Spectator):
    """Adds to each validation and test how well the rows of each group are ordered, in the mean over the groups.

    ::

        trainer:
          callbacks:
            - class_path: GroupedMetrics
              init_args: {by: user_id, metrics: [gauc, ndcg@10, recall@10], tasks: [click]}

    ``val/gauc/<task>`` is the mean area under the ROC curve of groups with both labels, ``val/ndcg_at_10/<task>`` that
    of torchmetrics (:class:`~mtl_lightning.metrics.grouped.GroupedMetric` has all of them). They are logged beside the
    other metrics, so that checkpoints and early stopping may monitor them (``mode: max``). Rows of a group may be on
    several processes and in several dataloaders. Rows without a label, or with a sample weight of 0, are left out; no
    other weight counts.

    A task that is yes or no is ordered by its logit; one of numbers, counts or levels by its prediction, its labels,
    not below 0, being what ``ndcg`` is of. Outputs and labels of a whole split are kept until its end, about 20 bytes a
    row on each process.

    Args:
        by: what groups go by: a name in the ``ids`` of the batches, else a column of categories of a table, else an
            entry of the inputs; by default ``ids`` themselves, without which nothing is computed.
        metrics: which.
        tasks: of which tasks; by default of all that are yes or no.
        weigh_by_rows: weigh the groups of ``gauc`` by their rows.

    Raises:
        ConfigurationError: for an unknown metric; at ``setup`` for a module that is no ``MultiTaskModule`` and unknown
            tasks; for batches without the groups, and tasks whose labels a metric cannot take.
    """

    def __init__(
        self,
        by: str | None = None,
        metrics: Sequence[str] = ("gauc",),
        tasks: Sequence[str] | None = None,
        weigh_by_rows: bool = False,
    ) -> None:
        self.by, self.tasks = by, None if tasks is None else list(tasks)
        self.metrics = [GroupedMetric(name, weigh_by_rows=weigh_by_rows) for name in metrics]
        self._rows: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}  # by task: groups, scores, labels

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, unknown tasks, and tasks that cannot be ordered."""
        module = multi_task(pl_module, self)
        for name in self.tasks or ():
            known_name(name, module.tasks, "GroupedMetrics.tasks")
            task = module.tasks[name]
            if any(not metric.is_graded for metric in self.metrics) and not _is_binary(module, name):
                raise ConfigurationError(
                    f"GroupedMetrics: expected `ndcg` alone of the task {name!r}, a {type(task).__name__}, which is "
                    f"not yes or no, found {[metric.tag for metric in self.metrics]}."
                )
        self._rows = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._rows = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._rows = {}

    def _wanted(self, module: MultiTaskModule) -> list[str]:
        if self.tasks is not None:
            return self.tasks
        return [name for name in module.tasks if _is_binary(module, name)]

    def see(
        self, module: LightningModule, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int
    ) -> None:
        """Keep the labelled rows of a batch."""
        network = multi_task(module, self)
        if self.by is None and "ids" not in batch:
            return
        targets = targets_of(batch)
        wanted = [name for name in self._wanted(network) if name in targets]
        groups = self._groups(network, batch) if wanted else None
        for name in wanted:
            task, target, weight = network.tasks[name], targets[name], weight_of(batch, name)
            labelled = task.labelled(target)
            score = _score(network, name, outputs[name].detach())
            if labelled.dim() != 1 or target.numel() != len(target) or score.shape != labelled.shape:
                raise ConfigurationError(
                    f"GroupedMetrics: expected a task with one number a row, found {name!r} with targets "
                    f"{tuple(target.shape)}. Name others in `tasks`."
                )
            some = (labelled if weight is None else labelled & (weight > 0)).cpu()
            if groups is not None and bool(some.any()):
                kept = (groups[some], score.cpu()[some], target.reshape(-1).to(score).cpu()[some])
                self._rows.setdefault(name, []).append(kept)

    def _groups(self, module: MultiTaskModule, batch: Batch) -> Tensor:
        """Return the group (B,) int64 of each row."""
        ids, inputs = batch.get("ids"), batch["inputs"]
        if self.by is None:
            found = ids
        elif isinstance(ids, Mapping) and self.by in ids:
            found = ids[self.by]
        elif isinstance(module.input_spec, TableSpec) and self.by in module.input_spec.categorical:
            found = Groups.of(module, self.by).codes(inputs)
        else:
            found = inputs.get(self.by) if isinstance(inputs, Mapping) else None
        rows = len(next(iter(targets_of(batch).values())))
        length = len(found) if isinstance(found, Tensor | np.ndarray | list | tuple) else None
        if found is None or length != rows:
            there = sorted(map(str, ids)) if isinstance(ids, Mapping) else "none by name"
            raise ConfigurationError(
                f"GroupedMetrics: expected for each of {rows} rows a group by {self.by or 'the name of an id'!r}, "
                f"found {'none' if length is None else length}; `ids` of the batch: {there}. Give the column to the "
                f"data, `ids: [{self.by or 'user'}]`."
            )
        return as_codes(found)

    def derive(self, module: LightningModule, stage: str, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the metrics, over all processes."""
        network = multi_task(module, self)
        found: dict[str, Tensor] = {}
        names = self._wanted(network)
        seen = torch.tensor([sum(len(part[0]) for part in self._rows.get(name, ())) for name in names])
        for name, total in zip(names, network.runtime.all_sum(seen.to(network.device)).tolist(), strict=True):
            if not total:
                continue
            groups, scores, labels = self._gathered(network, name)
            for metric in self.metrics:
                tag = f"{stage}/{metric.tag}/{name}"
                if tag in values:
                    raise ConfigurationError(f"GroupedMetrics: expected no other metric {tag!r}, found one.")
                value = metric.compute(scores, labels, groups)
                if not bool(value.isnan()):
                    found[tag] = value.to(network.device, torch.float32)
        self._rows = {}
        return found

    def _gathered(self, module: MultiTaskModule, name: str) -> list[Tensor]:
        """Return groups, scores and labels (N,) of the rows of all processes."""
        parts = self._rows.get(name)
        mine = [torch.cat(part) for part in zip(*parts, strict=True)] if parts else None
        runtime = module.runtime
        if runtime.world_size == 1:
            return mine or []
        everywhere: list[Any] = [None] * runtime.world_size
        torch.distributed.all_gather_object(everywhere, mine)
        return [torch.cat(part) for part in zip(*(part for part in everywhere if part is not None), strict=True)]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of what was seen."""
        self._rows = {}


def _is_binary(module: MultiTaskModule, name: str) -> bool:
    task = module.tasks[name]
    return task.decoding()["form"] == "binary" and task.output_size == 1


def _score(module: MultiTaskModule, name: str, output: Tensor) -> Tensor:
    """Return by what rows (B,) are ordered: a logit, or a prediction."""
    if _is_binary(module, name):
        return output.reshape(len(output), -1)[:, 0]
    found = module.tasks[name].final(output)
    found = found.get("value", next(iter(found.values()))) if isinstance(found, dict) else found
    return found.reshape(-1) if found.numel() == len(found) else found


def as_codes(values: Any) -> Tensor:
    """Return an int64 (B,) for each value, the same for equal ones on all processes: integers themselves, a hash of
    others. Two of a million texts are taken for one with a probability of about 3e-8.
    """
    if isinstance(values, Tensor) and not values.is_floating_point():
        return values.reshape(len(values), -1)[:, 0].long().cpu()
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub" and values.ndim == 1:
        return torch.from_numpy(values.astype(np.int64))
    texts = [str(value) for value in (values.tolist() if isinstance(values, Tensor | np.ndarray) else values)]
    known = {text: _hash(text) for text in {*texts}}
    return torch.tensor([known[text] for text in texts], dtype=torch.int64)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
