"""The network beside its weights, for balancers that try a step before they decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import SGD

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.losses import recomputed, window_vector
from mtl_lightning.core.update.window import Window
from mtl_lightning.core.update.without_side_effects import without_side_effects


class WindowLookahead:
    """What :class:`~mtl_lightning.balancing.lookahead.Lookahead` promises, of a network and a window.

    Args:
        network: the network.
        runtime: where it runs.
        window: the micro-batches of the update to come.
        optimizer: what will step the weights.
        parts: into how many the window is split; as many as the balancer wants by default.
    """

    def __init__(
        self,
        network: Network,
        runtime: Runtime,
        window: Window,
        optimizer: CompositeOptimizer,
        parts: int | None = None,
    ) -> None:
        self.network, self.runtime, self.optimizer = network, runtime, optimizer
        self.parts = window.split(network.balancer.parts if parts is None else parts, network.tasks, runtime)
        self.parameters: list[nn.Parameter] = [p for named in network.roles.trained for p in named]

    def losses_at(self, shift: Sequence[Tensor], part: int) -> Tensor:
        """Return the mean losses (T,) of a part at the weights plus a shift."""
        with self._shifted(shift):
            return recomputed(self.network, self.runtime, self.parts[part])

    def gradient_of(self, weights: Tensor, part: int, shift: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the gradient of the weighted sum of a part's losses, at the weights plus a shift, if there is one."""
        network, runtime, window = self.network, self.runtime, self.parts[part]
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        with torch.enable_grad(), without_side_effects(network), self._shifted(shift):
            for batch in window.batches:
                objective = (weights * window_vector(network, runtime, window, batch)[0]).sum()
                if objective.requires_grad:
                    found = torch.autograd.grad(objective, self.parameters, allow_unused=True, materialize_grads=True)
                    torch._foreach_add_(total, list(found))
        return runtime.summed(total)

    def step(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """Return the shift of plain descent; of SGD with its momentum and weight decay."""
        made = []
        for parameter, part, options, is_sgd in zip(self.parameters, gradient, *self._options(), strict=True):
            towards = part
            if is_sgd:
                buffer = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
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
            for optimizer in self.optimizer.optimizers.values()
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
