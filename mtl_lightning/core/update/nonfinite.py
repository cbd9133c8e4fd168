"""Gradients that are inf or nan: found with one look at their norm, and named by group and task.

The look does not wait for a device. Whether the norm is finite stays a flag there, which makes the step one that
changes nothing, and which the host sees in the next update, once that one's backward is queued.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.core.host_number import HostNumber, is_waited_for, now
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim import CompositeOptimizer
from mtl_lightning.core.optim.taking_back import can_take_back
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.sharding import are_sharded, norms, total_norm
from mtl_lightning.core.update.losses import window_losses
from mtl_lightning.core.update.window import Window
from mtl_lightning.core.update.without_side_effects import without_side_effects
from mtl_lightning.types import MtlLightningError


class NonFiniteError(MtlLightningError, ArithmeticError):
    """A loss or a gradient is inf or nan; says where."""


@dataclass(frozen=True)
class Look:
    """What is found out about the gradients of one update, and what an error is made of.

    A finite gradient whose norm overflows counts as not finite: no optimizer could use it, and its loss is infinite.

    Attributes:
        number: the update's, counted from 1.
        window: its micro-batches.
        losses: (T,) this process's part of the tasks' losses.
        groups: the parameters of each group that have a gradient.
        norms: (N,) the norms of their gradients, group by group.
    """

    number: int
    window: Window
    losses: Tensor
    groups: Mapping[str, Sequence[nn.Parameter]]
    norms: Tensor


class FiniteCheck:
    """Looks at the norm of every update's gradients, and makes nothing of an update where it is inf or nan.

    Args:
        network: what is updated.
        runtime: where it runs.

    Attributes:
        bad: whether the gradients of the update under way are not finite; a tensor () where only the device knows.
    """

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self._network, self._runtime = network, runtime
        self._skipped = 0
        self._norm: HostNumber | None = None
        self._open: Look | None = None  # whose norm is on its way to the host
        self._open_raises = False
        self._error: NonFiniteError | None = None  # to be raised in the next update
        self.bad: bool | Tensor = False

    def start_afresh(self) -> None:
        """Forget an update whose flag nobody has looked at."""
        self._open = self._error = None
        self.bad = False

    @property
    def skipped(self) -> int:
        """The number of updates that were left out; what is not known yet is waited for."""
        if self._open is not None and not self._open_raises:  # an error is raised where all processes meet it
            self.settle()
        return self._skipped

    @skipped.setter
    def skipped(self, number: int) -> None:
        self._skipped = number

    def settle(self) -> None:
        """Take in what is known by now of the update before.

        Raises:
            NonFiniteError: under ``raise``, if its gradients were inf or nan.
        """
        look, self._open = self._open, None
        if look is not None and self._norm is not None and not math.isfinite(self._norm.read()):
            if self._open_raises:
                self._error = self._error_of(look)
            else:
                self._skipped += 1
        error, self._error = self._error, None
        if error is not None:
            raise error

    def look(
        self, look: Look, policy: str, optimizer: CompositeOptimizer, *, at_once: bool, can_undo: Callable[[], bool]
    ) -> None:
        """Look at the gradients before a step, and have it skipped if they are inf or nan.

        Args:
            look: the gradients' norms.
            policy: ``raise`` or ``skip``.
            optimizer: which is about to step.
            at_once: whether the host waits for the answer, as for an update that is recorded.
            can_undo: says whether what follows the step can be taken back, since it changes nothing but tensors.

        Raises:
            NonFiniteError: under ``raise``, at once or in a later update's :meth:`settle`.
        """
        runtime, raises, self.bad = self._runtime, policy == "raise", False
        if not len(look.norms):
            return
        norm = torch.linalg.vector_norm(look.norms)
        at_once = at_once or not runtime.fast_paths or runtime.scaler is not None or runtime.shards_parameters
        if not at_once:
            undone = is_waited_for(norm) and can_undo() and can_take_back(optimizer.optimizers.values(), norm.device)
            if undone:
                self._leave_on_device(look, norm, optimizer, raises)
                return
        if not math.isfinite(norm.item() if at_once else now(norm)):
            self._refuse_or_skip(look, raises, at_once)

    def _leave_on_device(self, look: Look, norm: Tensor, optimizer: CompositeOptimizer, raises: bool) -> None:
        """Have the step taken back where the norm () is not finite, which the host sees later."""
        if self._norm is None or self._norm.device != norm.device:
            self._norm = HostNumber(norm.device)
        self._norm.send(norm)
        self._open, self._open_raises = look, raises
        self.bad = optimizer.unless = torch.isfinite(norm).logical_not()

    def _refuse_or_skip(self, look: Look, raises: bool, at_once: bool) -> None:
        if raises and self._runtime.scaler is not None:
            return  # a gradient scaler meets overflows all the time, and skips these itself
        if raises:
            self._error = self._error_of(look)
            if at_once:
                self.settle()
        else:
            self._skipped += 1
        self.bad = True
        for parameters in look.groups.values():  # nothing is left to step, but the step still counts, as under a scaler
            for parameter in parameters:
                parameter.grad = None

    def _error_of(self, look: Look) -> NonFiniteError:
        """Return the error that names the groups, and the tasks at fault, on whatever process."""
        network, runtime = self._network, self._runtime
        finite = torch.isfinite(look.norms)
        places = {id(p): place for place, p in enumerate(p for named in look.groups.values() for p in named)}
        parts = torch.split(look.norms, [len(parameters) for parameters in look.groups.values()])
        groups = [n for n, part in zip(look.groups, parts, strict=True) if not torch.isfinite(part.norm())]
        heads = [
            any(not finite[places[id(p)]] for p in named.values() if id(p) in places)
            for named in network.roles.tasks.values()
        ]
        found = ~torch.isfinite(look.losses) | torch.tensor(heads, device=runtime.device)
        found = runtime.all_sum(found.float())  # a task may be at fault on another process
        if not found.any():
            found = runtime.all_sum(_overflowing(network, runtime, look.window))
        tasks = [name for name, number in zip(network.tasks, found.tolist(), strict=True) if number]
        return NonFiniteError(
            f"Update {look.number}: expected finite gradients, found a norm of inf or nan in the groups "
            f"{groups or [*look.groups]}; the loss or the gradient of {tasks or 'no single task'} is not finite. Lower "
            "that group's learning rate, clip its gradient (`gradient_clip`), or look for extreme values in its "
            "targets; `on_nonfinite: skip` leaves such updates out."
        )


def look_at(number: int, window: Window, losses: Tensor, groups: Mapping[str, Any]) -> Look:
    """Take the norms of the gradients of groups of parameters by name.

    Args:
        number: the update's, counted from 1.
        window: its micro-batches.
        losses: (T,) of this process.
        groups: the parameters of each group, by name.
    """
    having = {name: [p for p in named.values() if p.grad is not None] for name, named in groups.items()}
    found: list[Any] = [p.grad for parameters in having.values() for p in parameters]
    grads = [grad.coalesce().values() if grad.is_sparse else grad for grad in found]  # norms take no sparse ones
    return Look(number, window, losses, having, norms(grads) if grads else torch.zeros(0))


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
