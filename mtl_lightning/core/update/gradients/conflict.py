"""How the tasks' gradients of the shared parameters lie to each other, for whoever watches: whatever the balancer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.core.network.network import Network, at_least_float32
from mtl_lightning.core.optim.build import sparse_parameters
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.gradients.jacobian import Jacobian, RowMemory, TaskGradients, Term
from mtl_lightning.core.update.losses import window_losses
from mtl_lightning.core.update.window import Window
from mtl_lightning.core.update.without_side_effects import without_side_effects


def watched_parameters(network: Network, runtime: Runtime) -> list[nn.Parameter]:
    """Return the trained shared parameters that rows can be made of: whole ones, whose gradients are dense."""
    sparse = sparse_parameters(network)
    shared = [] if runtime.shards_parameters else network.roles.trained[0]
    return [parameter for parameter in shared if id(parameter) not in sparse]


def task_products(network: Network, runtime: Runtime, window: Window) -> Tensor | None:
    """Return the inner products (P, P) of the gradients of the P present tasks' losses, float64, over all processes.

    With respect to all shared parameters that :func:`watched_parameters` finds, None if there are none; of the losses
    as they are, before the balancer weighs them. Costs one more forward and P backwards of the window, and changes
    nothing: not ``.grad``, BatchNorm's statistics or the random state. All processes have to call it.
    """
    trunk = watched_parameters(network, runtime)
    places, scale = window.present_indices, runtime.loss_scale()
    if not trunk:
        return None
    jacobian = Jacobian(trunk, TaskGradients([]), len(places), RowMemory(), in_place=runtime.fast_paths)
    if not window.batches:  # this process has none
        jacobian.rows.zero_()
    with torch.enable_grad(), without_side_effects(network):
        for batch in window.batches:
            values, _ = window_losses(network, runtime, window, batch)
            jacobian.add([Term(values[place] * scale) for place in places])
    with runtime.full_precision():
        (rows,) = runtime.summed([jacobian.rows])
        return gramian(at_least_float32(rows)).double() / scale**2
