"""The losses of a window: means over the labelled elements of the whole window and of all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtl_lightning.core.network.network import Network, at_least_float32
from mtl_lightning.core.network.stacked_heads import Outputs
from mtl_lightning.core.on_device import on_device
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import group_batchable, in_order, targets_of, weight_of
from mtl_lightning.core.update.window import Window
from mtl_lightning.core.update.without_side_effects import without_side_effects
from mtl_lightning.types import Batch

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

    def mean_over(self, parts: int) -> None:
        """Turn sums over so many windows into means."""
        self.tasks = self.tasks / parts
        self.aux = {name: value / parts for name, value in self.aux.items()}


def window_losses(
    network: Network, runtime: Runtime, window: Window, batch: Batch
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Forward one micro-batch; return its part of each task's mean loss (), as separate scalars, and the aux losses."""
    names, outputs, aux = forward_tasks(network, window, batch)
    return separate_losses(network, runtime, window, batch, names, outputs), aux


def window_vector(network: Network, runtime: Runtime, window: Window, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Like :func:`window_losses`, but as one vector (T,)."""
    names, outputs, aux = forward_tasks(network, window, batch, together=True)
    return losses_together(network, runtime, window, batch, names, outputs), aux


def forward_tasks(
    network: Network, window: Window, batch: Batch, together: bool = False
) -> tuple[list[str], dict[str, Tensor], dict[str, Tensor]]:
    """Run the tasks that a micro-batch has targets of; return their names, all outputs and auxiliary losses.

    With ``together`` one backward from all of them is to follow, so that equal heads may run as one.
    """
    names = window.names_in(batch)
    outputs, aux = (network.run_together if together else network.run)(batch["inputs"], names)
    return names, outputs, {name: at_least_float32(value) for name, value in aux.items()}


def separate_losses(
    network: Network,
    runtime: Runtime,
    window: Window,
    batch: Batch,
    names: Sequence[str],
    outputs: Mapping[str, Tensor],
) -> list[Tensor]:
    """Return a micro-batch's part of each task's mean loss as T scalars (); 0 of those not in ``names``.

    Separate, so that the backward of one of them runs its own head and no other.
    """
    targets, counts = targets_of(batch), window.counts
    with runtime.full_precision():
        zero = torch.zeros((), device=runtime.device)
        return [
            task.loss(outputs[name], targets[name], weight_of(batch, name)) / counts[name] if name in names else zero
            for name, task in network.tasks.items()
        ]


def losses_together(
    network: Network,
    runtime: Runtime,
    window: Window,
    batch: Batch,
    names: Sequence[str],
    outputs: Mapping[str, Tensor],
) -> Tensor:
    """Like :func:`separate_losses`, but as one vector (T,), with the rows of batchable tasks put together."""
    targets, counts = targets_of(batch), window.counts
    order: list[str] = []
    parts: list[Tensor] = []
    with runtime.full_precision():
        for group in group_batchable(batch, names, network.tasks):
            task, first = network.tasks[group[0]], group[0]
            if len(group) == 1:
                parts.append(task.loss(outputs[first], targets[first], weight_of(batch, first)).reshape(1))
            else:
                given = outputs.together(group) if isinstance(outputs, Outputs) else [outputs[name] for name in group]
                parts.append(task.loss_together(given, [targets[name] for name in group]))
            order += group
        if not order:
            return torch.zeros(len(counts), device=runtime.device)
        sums = in_order(torch.cat(parts) if len(parts) > 1 else parts[0], order, [*counts])
        return sums / on_device([count or 1.0 for count in counts.values()], sums.device, sums.dtype)


def aux_term(runtime: Runtime, aux: Mapping[str, Tensor], micro_batches: int) -> Tensor:
    """Return what one of the micro-batches adds to the scaled auxiliary loss (), a mean over processes too."""
    return torch.stack(list(aux.values())).sum() * (runtime.loss_scale() / (micro_batches * runtime.world_size))


def recomputed(network: Network, runtime: Runtime, window: Window) -> Tensor:
    """Return a window's losses (T,) over all processes, at the weights as they are; leaves no trace."""
    with torch.no_grad(), without_side_effects(network):
        parts = [torch.stack(window_losses(network, runtime, window, batch)[0]) for batch in window.batches]
        return runtime.all_sum(torch.stack(parts).sum(0))
