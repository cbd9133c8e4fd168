"""The gradient of a window: losses as means over the whole window and all processes, differentiated once per need.

The balancer's kind decides the way. An affine objective is differentiated micro-batch by micro-batch, which adds up.
Any other objective is differentiated at the exact losses of all processes. A balancer that needs one gradient per task
gets rows, of the shared parameters (:mod:`mtl_lightning.core.jacobian`) or of something cheaper
(:mod:`mtl_lightning.core.probe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.core.features import Features
from mtl_lightning.core.jacobian import by_rows
from mtl_lightning.core.last_layer import LastLayer
from mtl_lightning.core.losses import Losses, names_in, window_vector
from mtl_lightning.core.probe import Probe, by_probe
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


_PROBES: dict[str, type[Probe]] = {"features": Features, "last_layer": LastLayer}


def differentiate(
    module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], present: Tensor
) -> Losses:
    """Leave the gradient of a window, over all processes, in ``.grad``.

    Args:
        module: the module.
        window: the micro-batches of one update.
        counts: the labelled elements of each task, over the window and all processes.
        present: (T,) bool, whether there are any.
    """
    balancer = module.balancer
    if not balancer.wants_rows(len(window)):
        return _by_objective(module, window, counts, present)
    shared = any(parameter.requires_grad for parameter in module.roles.shared.values())
    if not shared or not isinstance(balancer, GradientBalancer) or balancer.level == "parameters":
        return by_rows(module, window, counts, present)
    return by_probe(_PROBES[balancer.level](module, balancer, counts), window, present)


def _by_objective(
    module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], present: Tensor
) -> Losses:
    seen = Losses()
    parts, world = len(window), module.world_size
    for index, batch in enumerate(window):
        vector, aux = window_vector(module, batch, counts)
        seen.add(vector, aux, parts)
        if parts * world > 1:
            vector = vector * (parts * world)  # processes are averaged, and so are micro-batches below
        if not module.balancer.affine and world > 1:
            vector = vector + (module.all_sum(seen.tasks) - vector).detach()  # the value of all, the path of this one
        if vector.requires_grad:
            vector.retain_grad()
        objective = module.balancer.objective(vector, present)
        if aux:
            objective = objective + sum(aux.values())
        if parts > 1:
            objective = objective / parts
        if isinstance(module.trainer.strategy, DDPStrategy) and len(names_in(batch, counts)) < len(counts):
            objective = objective + _reaching_all(module)
        with nullcontext() if index == parts - 1 else module.no_gradient_sync():
            module.manual_backward(objective)
        seen.objective = objective.detach() if index == 0 else seen.objective + objective.detach()
        if vector.grad is not None:
            plain = parts == 1 and module.scaler is None
            seen.weights = vector.grad if plain else vector.grad * parts / module.loss_scale()
    return seen


def _reaching_all(module: MultiTaskModule) -> Tensor:
    """Return a 0 () that reaches every trained parameter: DDP waits for a gradient of each, absent tasks' too."""
    return torch.stack([p.reshape(-1)[:0].sum().float() for p in module.parameters() if p.requires_grad]).sum()
