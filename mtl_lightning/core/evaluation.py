"""Validation and test: one loss and one set of metrics per task over a whole split, labelled entries only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from mtl_lightning.core.batches import check_targets, micro_batches, targets_of, weight_of
from mtl_lightning.core.losses import at_least_float32, full_precision
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class MeanLosses(Metric):
    """Each task's loss over everything seen: the sums (T,) and the labelled counts (T,), added over processes."""

    total: Tensor
    count: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(num_tasks), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_tasks), dist_reduce_fx="sum")

    def update(self, index: int, total: Tensor, count: Tensor) -> None:
        """Add a batch's summed loss and count of one task."""
        self.total[index] += total
        self.count[index] += count

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the mean losses (T,), nan where nothing was labelled, and the counts (T,)."""
        return self.total / self.count, self.count


class Evaluation(nn.Module):
    """The metrics of one stage and one dataloader.

    Args:
        tasks: the tasks by name.
        stage: ``"val"`` or ``"test"``.
    """

    def __init__(self, tasks: Mapping[str, Task], stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.started = False
        self.losses = MeanLosses(len(tasks))
        self.metrics = nn.ModuleDict({name: task.metrics(stage) for name, task in tasks.items()})

    def update(self, tasks: Mapping[str, Task], batch: Batch, outputs: Mapping[str, Tensor]) -> None:
        """Add a batch: its outputs (B, K, *) for every task that it has a target of."""
        self.started = True
        targets = targets_of(batch)
        for index, (name, task) in enumerate(tasks.items()):
            if name in targets:
                output = at_least_float32(outputs[name])
                weight = weight_of(batch, name)
                self.losses.update(index, task.loss(output, targets[name], weight), task.count(targets[name], weight))
                task.update(cast("MetricCollection", self.metrics[name]), output, targets[name])

    def compute(self, prefix: str) -> dict[str, Tensor]:
        """Return ``<prefix>/loss``, ``<prefix>/loss/<task>`` and ``<prefix>/<metric>/<task>``; then start afresh."""
        means, counts = (vector.reshape(-1) for vector in self.losses.compute())  # torchmetrics squeezes T = 1
        values: dict[str, Tensor] = {}
        labelled = counts > 0
        values[f"{prefix}/loss"] = means[labelled].sum()
        for index, (name, metrics) in enumerate(self.metrics.items()):
            if labelled[index]:
                values[f"{prefix}/loss/{name}"] = means[index]
                computed = cast("MetricCollection", metrics).compute()
                values |= {f"{prefix}/{metric}/{name}": value for metric, value in computed.items()}
        self.started = False
        self.losses.reset()
        for metrics in self.metrics.values():
            cast("MetricCollection", metrics).reset()
        return values


def step(module: MultiTaskModule, stage: str, batch: Any, dataloader_idx: int) -> None:
    """Add a batch of one dataloader to its metrics, once its targets are checked: metrics read them on the host too."""
    evaluations = module.evaluations[stage]
    while len(evaluations) <= dataloader_idx:
        with wide_sums():
            evaluations.append(Evaluation(module.tasks, stage).to(module.device))
    evaluation = evaluations[dataloader_idx]
    for item in micro_batches(batch, module.tasks):
        check_targets(item, module.tasks)
        outputs, _ = module.run(item["inputs"], list(targets_of(item)))
        with full_precision(module), wide_sums():
            evaluation.update(module.tasks, item, outputs)


@contextmanager
def wide_sums() -> Iterator[None]:
    """Make new tensors in float32 or better: under 16-true and bf16-true a count would stop growing at 2048 or 256."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.promote_types(before, torch.float32))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def finish(module: MultiTaskModule, stage: str, loaders: Any) -> None:
    """Log what the stage's metrics say; several dataloaders are told apart by their name or number."""
    evaluations = module.evaluations[stage]  # one alone for loaders that give joint batches, {name: batch}
    names = list(loaders if isinstance(loaders, Mapping) else range(len(evaluations)))
    for index, evaluation in enumerate(evaluations):
        if evaluation.started:
            values = evaluation.compute(stage if len(evaluations) == 1 else f"{stage}/{names[index]}")
            module.log_dict(values, sync_dist=module.world_size > 1)
