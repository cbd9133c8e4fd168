"""Gradients that are inf or nan: found with one look at their norm, and named by group and task."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.sharding import are_sharded, total_norm
from mtl_lightning.core.update.losses import window_losses
from mtl_lightning.core.update.window import Window
from mtl_lightning.core.update.without_side_effects import without_side_effects
from mtl_lightning.types import MtlLightningError


class NonFiniteError(MtlLightningError, ArithmeticError):
    """A loss or a gradient is inf or nan; says where."""


def nonfinite_groups(groups: Mapping[str, list[Tensor]], known: Tensor | None) -> list[str]:
    """Return the groups whose gradient norm is inf or nan: one host sync where there are none.

    A finite gradient whose norm overflows counts as well: no optimizer could use it, and its loss is infinite.

    Args:
        groups: the gradients of each group.
        known: the norms of all of them (N,), where they were taken already.
    """
    norm = total_norm([grad for grads in groups.values() for grad in grads]) if known is None else known.norm()
    if math.isfinite(norm.item()):
        return []
    return [name for name, grads in groups.items() if not torch.isfinite(total_norm(grads))] or [*groups]


def error_of(network: Network, runtime: Runtime, window: Window, losses: Tensor, groups: list[str]) -> NonFiniteError:
    """Return the error that names the groups, and the tasks at fault, on whatever process.

    Args:
        network: the network, whose gradients are not finite.
        runtime: where it runs.
        window: the micro-batches of the update.
        losses: (T,) this process's part of the tasks' losses.
        groups: the groups at fault.
    """
    heads = [
        any(p.grad is not None and not torch.isfinite(p.grad).all() for p in named.values())
        for named in network.roles.tasks.values()
    ]
    found = ~torch.isfinite(losses) | torch.tensor(heads, device=runtime.device)
    found = runtime.all_sum(found.float())  # a task may be at fault on another process
    if not found.any():
        found = runtime.all_sum(_overflowing(network, runtime, window))
    tasks = [name for name, number in zip(network.tasks, found.tolist(), strict=True) if number]
    return NonFiniteError(
        f"Update {runtime.trainer.global_step + 1}: expected finite gradients, found a norm of inf or nan in the "
        f"groups {groups}; the loss or the gradient of {tasks or 'no single task'} is not finite. Lower that "
        "group's learning rate, clip its gradient (`gradient_clip`), or look for extreme values in its targets; "
        "`on_nonfinite: skip` leaves such updates out."
    )


def _overflowing(network: Network, runtime: Runtime, window: Window) -> Tensor:
    """Return (T,), 1 for each task whose loss alone gives the trunk a gradient that is not finite: one more forward."""
    trunk = network.roles.trained[0]
    flags = torch.zeros(len(network.tasks), device=runtime.device)
    if are_sharded(trunk):
        return flags  # sharded parameters give no gradient of a single task
    with torch.enable_grad(), without_side_effects(network):
        for batch in window.batches:
            for index, loss in enumerate(window_losses(network, runtime, window, batch)[0]):
                if loss.requires_grad:
                    grads = torch.autograd.grad(loss, trunk, retain_graph=True, allow_unused=True)
                    finite = torch.isfinite(total_norm([grad for grad in grads if grad is not None]))
                    flags[index] += ~finite
    return flags
