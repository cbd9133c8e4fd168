"""Steps that leave everything as it was where a flag on the device says so, which the host does not look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

_TAKE_FLAGS = (Adam, AdamW, SGD, Adagrad)
"""Whose fused kernels take ``found_inf``, and take back the count of the step: ``torch.optim.adam._fused_adam``."""


def can_take_back(optimizers: Iterable[Optimizer], device: torch.device) -> bool:
    """Whether the next step of some optimizers can be taken back on a device: all that it changes is tensors there.

    Otherwise a number of Python's would go on, or a state would begin. Only optimizers of PyTorch are known well
    enough, those for which nobody but Lightning waits.
    """
    return all(_can(optimizer, device) for optimizer in optimizers)


def _can(optimizer: Optimizer, device: torch.device) -> bool:
    if not type(optimizer).__module__.startswith("torch.optim."):
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return False
    for group in optimizer.param_groups:
        fused, stateless = bool(group.get("fused")), type(optimizer) is SGD and not group["momentum"]
        if fused and type(optimizer) not in _TAKE_FLAGS:
            return False
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            values = [*optimizer.state.get(parameter, {}).values()]
            if stateless:
                values = [value for value in values if value is not None]
            elif not values:
                return False
            if isinstance(parameter, DTensor) or parameter.device != device:
                return False
            if not all(isinstance(value, Tensor) and value.device == device for value in values):
                return False
    return True


@contextmanager
def taken_back(optimizers: Iterable[Optimizer], bad: Tensor) -> Iterator[None]:
    """Take back what a step within does to parameters and states, where ``bad`` () bool is true.

    The fused kernels do nothing then. Of other optimizers, parameters and states are copied before, and chosen from the
    copies after.
    """
    flag = bad.float()
    fused, changed = [], []
    for optimizer in optimizers:
        if all(group.get("fused") for group in optimizer.param_groups):
            fused.append(optimizer)
            continue
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        changed += [parameter.detach() for parameter in parameters]
        changed += [value for state in states for value in state.values() if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in changed]
    for optimizer in fused:
        optimizer.found_inf = flag  # type: ignore[attr-defined]  # which torch's optimizers look for
    try:
        yield
    finally:
        for optimizer in fused:
            del optimizer.found_inf  # type: ignore[attr-defined]
    for tensor, old in zip(changed, before, strict=True):
        torch.where(bad, old, tensor, out=tensor)


class Before:
    """Copies of some small tensors, to choose from: a few kernels for all of them.

    Args:
        tensors: of one device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor.detach())
        self._kinds = [(same, _flat(same)) for same in kinds.values()]

    @torch.no_grad()
    def restore(self, where: Tensor) -> None:
        """Bring all of them back where a flag () is true."""
        for tensors, before in self._kinds:
            chosen = torch.split(torch.where(where, before, _flat(tensors)), [tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [piece.view_as(one) for piece, one in zip(chosen, tensors, strict=True)])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def state_of(part: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a part."""
    return [*part.parameters(), *part.buffers()]
