"""The gradient of a window: losses as means over the whole window and all processes, differentiated once per need.

The balancer's kind decides the way. An affine objective is differentiated micro-batch by micro-batch, which adds up.
Any other objective is differentiated at the exact losses of all processes. A balancer that needs one gradient per task
gets rows, of the shared parameters or of something cheaper (:mod:`mtl_lightning.core.update.gradients`).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.gradients import LEVELS, RowMemory
from mtl_lightning.core.update.losses import Losses, window_vector
from mtl_lightning.core.update.window import Window


def differentiate(
    network: Network, runtime: Runtime, window: Window, memory: RowMemory, trusting: bool = False
) -> Losses:
    """Leave the gradient of a window, over all processes, in ``.grad``, and return its losses.

    Args:
        network: the network.
        runtime: where it runs.
        window: the micro-batches of one update, counted.
        memory: for rows, between updates.
        trusting: whether values that are inf or nan may reach a method of gradients.
    """
    balancer = network.balancer
    if not balancer.wants_rows(len(window.batches)):
        return _by_objective(network, runtime, window)
    level = balancer.level if isinstance(balancer, GradientBalancer) and network.roles.trained[0] else "parameters"
    return LEVELS[level](network, runtime, window, memory, trusting).differentiate()


def _by_objective(network: Network, runtime: Runtime, window: Window) -> Losses:
    losses, balancer = Losses(), network.balancer
    parts, world = len(window.batches), runtime.world_size
    for index, batch in enumerate(window.batches):
        vector, aux = window_vector(network, runtime, window, batch)
        losses.add(vector, aux, parts)
        if parts * world > 1:
            vector = vector * (parts * world)  # processes are averaged, and so are micro-batches below
        if not balancer.affine and world > 1:  # the value of all, the path of this one
            vector = vector + (runtime.all_sum(losses.tasks) - vector).detach()
        if vector.requires_grad:
            vector.retain_grad()
        objective = balancer.objective(vector, window.present)
        if aux:
            objective = objective + sum(aux.values())
        if parts > 1:
            objective = objective / parts
        if runtime.waits_for_every_parameter and len(window.names_in(batch)) < len(window.counts):
            objective = objective + _reaching_all(network)
        with nullcontext() if index == parts - 1 else runtime.no_gradient_sync():
            runtime.backward(objective)
        losses.objective = objective.detach() if index == 0 else losses.objective + objective.detach()
        if vector.grad is not None:
            plain = parts == 1 and runtime.scaler is None
            losses.weights = vector.grad if plain else vector.grad * parts / runtime.loss_scale()
    return losses


def _reaching_all(network: Network) -> Tensor:
    """Return a 0 () that reaches every trained parameter, those of absent tasks, too."""
    return torch.stack([p.reshape(-1)[:0].sum().float() for p in network.parameters() if p.requires_grad]).sum()
