"""How many labels each task has in a window, over all processes; counted before any forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtl_lightning.core.batches import check_targets, group_batchable, in_order, targets_of, weight_of
from mtl_lightning.types import Batch, TargetError

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


def count_labels(module: MultiTaskModule, window: Sequence[Batch]) -> dict[str, float]:
    """Return the number (or weight) of labelled elements of each task over the window and all processes.

    The one host read of an update. An invalid value makes a count nan.

    Raises:
        TargetError: that says what is wrong with which task's target.
    """
    order: list[str] = []
    parts: list[Tensor] = []
    try:
        for batch in window:
            for names in group_batchable(batch, targets_of(batch), module.tasks):
                parts.append(_counts(module, batch, names))
                order += names
    except TargetError:  # a wrong dtype or shape
        for batch in window:
            check_targets(batch, module.tasks)  # names the task
        raise
    found = torch.cat(parts) if parts else torch.zeros(0, device=module.device)
    counts: list[float] = module.all_sum(in_order(found, order, [*module.tasks])).tolist()
    if any(map(math.isnan, counts)):
        for batch in window:
            check_targets(batch, module.tasks)
        bad = [name for name, count in zip(module.tasks, counts, strict=True) if math.isnan(count)]
        raise TargetError(f"The targets or weights of {bad} hold an invalid value, on this process or another one.")
    return dict(zip(module.tasks, counts, strict=True))


def _counts(module: MultiTaskModule, batch: Batch, names: list[str]) -> Tensor:
    """Return the counts (N,) of N batchable tasks, or of a single one."""
    targets, task = targets_of(batch), module.tasks[names[0]]
    if len(names) == 1:
        return task.count(targets[names[0]], weight_of(batch, names[0])).reshape(1)
    return task.count_together([targets[name] for name in names])
