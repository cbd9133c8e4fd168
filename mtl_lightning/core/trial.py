"""The network beside its weights, for balancers that try a step before they decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import SGD

from mtl_lightning.core.counts import count_labels
from mtl_lightning.core.frozen import frozen
from mtl_lightning.core.jacobian import summed, trained
from mtl_lightning.core.losses import window_losses, window_vector
from mtl_lightning.core.splitting import split_window
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class Trial:
    """What :class:`~mtl_lightning.balancing.lookahead.Lookahead` promises, of a module and a window.

    Args:
        module: the module.
        window: the micro-batches of the update to come.
    """

    def __init__(self, module: MultiTaskModule, window: Sequence[Batch]) -> None:
        self.module = module
        self.parts = split_window(window, module.balancer.parts)
        self.counts = [count_labels(module, part) for part in self.parts]
        self.parameters: list[nn.Parameter] = [p for named in trained(module) for p in named]

    def losses_at(self, shift: Sequence[Tensor], part: int) -> Tensor:
        """Return the mean losses (T,) of a part at the weights plus a shift."""
        module, counts = self.module, self.counts[part]
        with torch.no_grad(), frozen(module), self._shifted(shift):
            losses = [torch.stack(window_losses(module, batch, counts)[0]) for batch in self.parts[part]]
            return module.all_sum(torch.stack(losses).sum(0))

    def gradient_of(self, weights: Tensor, part: int, shift: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the gradient of the weighted sum of a part's losses, at the weights plus a shift, if there is one."""
        module, counts = self.module, self.counts[part]
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        with torch.enable_grad(), frozen(module), self._shifted(shift):
            for batch in self.parts[part]:
                objective = (weights * window_vector(module, batch, counts)[0]).sum()
                if objective.requires_grad:
                    found = torch.autograd.grad(objective, self.parameters, allow_unused=True, materialize_grads=True)
                    torch._foreach_add_(total, list(found))
        return summed(module, total)

    def step(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """Return the shift of plain descent; of SGD with its momentum and weight decay."""
        made = []
        for parameter, part, options, is_sgd in zip(self.parameters, gradient, *self._options(), strict=True):
            towards = part
            if is_sgd:
                buffer = self.module.composite_optimizer().state.get(parameter, {}).get("momentum_buffer")
                towards = towards + options["weight_decay"] * parameter.detach()
                towards = towards if buffer is None else towards + options["momentum"] * buffer
            made.append(-float(options["lr"]) * towards)
        return made

    def rates(self) -> list[float]:
        """Return each parameter's learning rate."""
        return [float(options["lr"]) for options in self._options()[0]]

    def _options(self) -> tuple[list[dict[str, float]], list[bool]]:
        """Return the options of each parameter's group, and whether its optimizer is SGD."""
        of = {
            id(parameter): (group, isinstance(optimizer, SGD))
            for optimizer in self.module.group_optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        found = [of[id(parameter)] for parameter in self.parameters]
        return [group for group, _ in found], [is_sgd for _, is_sgd in found]

    @contextmanager
    def _shifted(self, shift: Sequence[Tensor] | None) -> Iterator[None]:
        """Add a shift to the weights, then put back the very same ones."""
        if shift is None:
            yield
            return
        weights = [parameter.detach() for parameter in self.parameters]
        before = [weight.clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, list(shift))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, before)
