"""The losses of a window: means over the labelled elements of the whole window and of all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from mtl_lightning.core.batches import group_batchable, in_order, targets_of, weight_of
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule

Outputs: TypeAlias = Mapping[str, Tensor]
_NOTHING = torch.zeros(())  # before the first micro-batch


@dataclass
class Losses:
    """What one process saw of a window, detached.

    Attributes:
        tasks: its part of the tasks' mean losses (T,); the sum over processes is the mean over all.
        objective: its objective (); the mean over processes is that of all.
        weights: d objective / d losses (T,), what each task's gradient is multiplied by; None if no loss has one.
        aux: auxiliary losses (), summed over the window's micro-batches and divided by their number.
    """

    tasks: Tensor = field(default_factory=lambda: _NOTHING)
    objective: Tensor = field(default_factory=lambda: _NOTHING)
    weights: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)

    def add(self, tasks: Tensor, aux: Mapping[str, Tensor], parts: int) -> None:
        """Add one of ``parts`` micro-batches."""
        self.tasks = tasks.detach() if self.tasks is _NOTHING else self.tasks + tasks.detach()
        for name, value in aux.items():
            share = value.detach() / parts
            self.aux[name] = self.aux[name] + share if name in self.aux else share


def window_losses(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Forward one micro-batch; return its part of each task's mean loss (), as separate scalars, and the aux losses."""
    names, outputs, aux = forward_tasks(module, batch, counts)
    return separate_losses(module, batch, counts, names, outputs), aux


def window_vector(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Like :func:`window_losses`, but as one vector (T,)."""
    names, outputs, aux = forward_tasks(module, batch, counts)
    return losses_together(module, batch, counts, names, outputs), aux


def forward_tasks(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float]
) -> tuple[list[str], dict[str, Tensor], dict[str, Tensor]]:
    """Run the tasks that a micro-batch has targets of; return their names, all outputs and auxiliary losses.

    A task that is present anywhere is run wherever its target is given, labelled or not, so that every process
    builds the same graph.
    """
    names = names_in(batch, counts)
    outputs, aux = module.run(batch["inputs"], names)
    return names, outputs, {name: at_least_float32(value) for name, value in aux.items()}


def names_in(batch: Batch, counts: Mapping[str, float]) -> list[str]:
    """Return the tasks that are present and have a target in this micro-batch, labelled or not."""
    targets = targets_of(batch)
    return [name for name in counts if counts[name] > 0 and name in targets]


def separate_losses(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float], names: Sequence[str], outputs: Outputs
) -> list[Tensor]:
    """Return a micro-batch's part of each task's mean loss as T scalars (); 0 of those not in ``names``.

    Separate, so that the backward of one of them runs its own head and no other.
    """
    targets = targets_of(batch)
    with full_precision(module):
        zero = torch.zeros((), device=module.device)
        return [
            task.loss(outputs[name], targets[name], weight_of(batch, name)) / counts[name] if name in names else zero
            for name, task in module.tasks.items()
        ]


def losses_together(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float], names: Sequence[str], outputs: Outputs
) -> Tensor:
    """Like :func:`separate_losses`, but as one vector (T,), with the rows of batchable tasks put together."""
    targets = targets_of(batch)
    order: list[str] = []
    parts: list[Tensor] = []
    with full_precision(module):
        for group in group_batchable(batch, names, module.tasks):
            task, first = module.tasks[group[0]], group[0]
            if len(group) == 1:
                parts.append(task.loss(outputs[first], targets[first], weight_of(batch, first)).reshape(1))
            else:
                parts.append(task.loss_together([outputs[name] for name in group], [targets[name] for name in group]))
            order += group
        if not order:
            return torch.zeros(len(counts), device=module.device)
        sums = in_order(torch.cat(parts) if len(parts) > 1 else parts[0], order, [*counts])
        return sums / sums.new_tensor([count or 1.0 for count in counts.values()])


def aux_term(module: MultiTaskModule, aux: Mapping[str, Tensor], parts: int) -> Tensor:
    """Return what one of ``parts`` micro-batches adds to the scaled auxiliary loss (), a mean over processes too."""
    return torch.stack(list(aux.values())).sum() * (module.loss_scale() / (parts * module.world_size))


def full_precision(module: MultiTaskModule) -> AbstractContextManager[Any]:
    """Switch autocast off: losses and what follows from them are never below float32."""
    return torch.autocast(module.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, any other as it is."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
