"""Gradients with respect to the features that all heads read.

One backward through the heads gives each task's gradient of them, whose inner products add up over the disjoint samples
of micro-batches and processes (P x P numbers); one backward through the trunk follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtl_lightning.balancing.rows import GradientBalancer, MasksFeatures
from mtl_lightning.core.graph import run_heads
from mtl_lightning.core.jacobian import Weighed, is_finite
from mtl_lightning.core.losses import (
    Losses,
    at_least_float32,
    full_precision,
    losses_together,
    names_in,
    separate_losses,
)
from mtl_lightning.core.probe import Probe
from mtl_lightning.core.rows import inner_products
from mtl_lightning.types import Batch, ConfigurationError

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class Features(Probe):
    """Gradients with respect to the features that all tasks' heads read.

    Raises:
        ConfigurationError: if the tasks do not read the same features.
    """

    def __init__(self, module: MultiTaskModule, balancer: GradientBalancer, counts: Mapping[str, float]) -> None:
        super().__init__(module, balancer, counts)
        self.masks: Tensor | None = None
        self.seen: list[tuple[Tensor, list[Tensor], Tensor | None]] = []  # features, tasks' gradients, auxiliary losses
        self.products: Tensor | None = None
        self.signed: Tensor | None = None

    def see(self, batch: Batch, seen: Losses, parts: int) -> None:
        """Forward a micro-batch, and go back through its heads."""
        module = self.module
        names = names_in(batch, self.counts)
        wanted = module.graph.needed(names)
        found = module.architecture(batch["inputs"], wanted)
        shared = self._shared(found.per_task) if wanted else torch.zeros((), device=module.device)
        leaves = {name: shared.detach().requires_grad_() for name in wanted}
        heads: Any = module.heads
        outputs = run_heads(module.graph, wanted, leaves, heads, module.tasks)
        of_outputs = module.architecture.output_losses(outputs)
        if of_outputs:  # which are to reach the trunk as well: once more through the heads, not from leaves
            again = run_heads(module.graph, wanted, dict.fromkeys(wanted, shared), heads, module.tasks)
            of_outputs = module.architecture.output_losses(again)
        aux = {name: at_least_float32(value) for name, value in {**found.aux, **of_outputs}.items()}
        order = [name for name, count in self.counts.items() if count]
        open_edges = any(not edge.stop_gradient for name in wanted for edge in module.graph.edges[name].values())
        way = self._task_by_task if open_edges else self._all_at_once
        gradients, losses = way(batch, names, outputs, leaves, order)
        seen.add(losses, aux, parts)
        self.seen.append((shared, gradients, self.aux_term(aux, parts)))
        self._note(shared, gradients)

    def _all_at_once(
        self, batch: Batch, names: list[str], outputs: dict[str, Tensor], leaves: dict[str, Tensor], order: list[str]
    ) -> tuple[list[Tensor], Tensor]:
        """One backward for all heads: each task's loss reaches its own copy of the features and its own head only."""
        losses = losses_together(self.module, batch, self.counts, names, outputs)
        owners = self._owners(names)
        targets = [leaves[name] for name in names] + [self.rows.others[index] for index, _ in owners]
        found: Any = ()
        if names:
            found = torch.autograd.grad(losses.sum() * self.scale, targets, allow_unused=True)
        gradients = dict(zip(names, found, strict=False))
        for (index, row), gradient in zip(owners, found[len(names) :], strict=True):
            self.rows.add_others(row, [gradient], [index])
        return [self._or_zero(gradients.get(name), leaves) for name in order], losses

    def _task_by_task(
        self, batch: Batch, names: list[str], outputs: dict[str, Tensor], leaves: dict[str, Tensor], order: list[str]
    ) -> tuple[list[Tensor], Tensor]:
        """One backward per task, which may reach other tasks' heads through the estimates that it reads."""
        losses = separate_losses(self.module, batch, self.counts, names, outputs)
        gradients = []
        indices = {name: index for index, name in enumerate(self.counts)}
        for row, name in enumerate(order):
            loss = losses[indices[name]]
            if not loss.requires_grad:
                gradients.append(self._or_zero(None, leaves))
                continue
            found = self.of_task(row, loss * self.scale, list(leaves.values()))
            gradients.append(torch.stack([gradient for gradient in found if gradient is not None]).sum(0))
        return gradients, torch.stack(losses)

    def _owners(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Return (index among the others, row of its task) of the parameters of these tasks."""
        roles = self.module.roles.tasks
        places = {id(parameter): index for index, parameter in enumerate(self.rows.others)}
        rows = {name: row for row, name in enumerate(name for name, count in self.counts.items() if count)}
        return [(places[id(p)], rows[name]) for name in names for p in roles[name].values() if id(p) in places]

    def _or_zero(self, gradient: Tensor | None, leaves: Mapping[str, Tensor]) -> Tensor:
        some = next(iter(leaves.values()), None)
        if gradient is None:
            return torch.zeros(()) if some is None else torch.zeros_like(some)
        return gradient

    def _shared(self, per_task: Mapping[str, Tensor]) -> Tensor:
        """Return the one tensor of features that every task reads."""
        tensors = list(per_task.values())
        if self.module.architecture.final or any(tensor is not tensors[0] for tensor in tensors):
            name, architecture = type(self.balancer).__name__, type(self.module.architecture).__name__
            raise ConfigurationError(
                f"{name} balances gradients of the features that all tasks' heads read: expected an architecture with "
                f"the same features for every task, such as SharedBottom, found {architecture}. Use "
                "`level: parameters`."
            )
        return tensors[0]

    def _note(self, shared: Tensor, gradients: Sequence[Tensor]) -> None:
        """Add a micro-batch to the statistics that the weights or the masks follow from."""
        if not shared.dim():
            return
        with full_precision(self.module):
            if not isinstance(self.balancer, MasksFeatures):
                part = inner_products(gradients)
                self.products = part if self.products is None else self.products + part
            else:
                signs = at_least_float32(shared.detach()).sign()
                part = torch.stack([(at_least_float32(gradient) * signs).sum(0).flatten() for gradient in gradients])
                self.signed = part if self.signed is None else self.signed + part

    def gramian(self) -> Tensor:
        """Sum the inner products over processes."""
        number = len(self.here)
        local = self.products
        if local is None:
            local = torch.zeros(number, number, device=self.module.device)
        return self.module.all_sum(local)

    def task_weights(self, weights: Tensor, weighed: Weighed, present: Tensor) -> Tensor:
        """Return the method's weights (P,); 1 of methods that mask features instead."""
        if not isinstance(self.balancer, MasksFeatures):
            return super().task_weights(weights, weighed, present)
        assert self.signed is not None
        signed = self.module.all_sum(self.signed) * weights.unsqueeze(1)
        self.masks = self.balancer.masks(signed, present) if is_finite(self.module, signed) else None
        return torch.ones_like(weights)

    def trunk_gradients(self, weights: Tensor, alpha: Tensor) -> list[Tensor]:
        """Go back through the trunk once, from the weighted or masked sum of the features' gradients."""
        total = [torch.zeros_like(parameter) for parameter in self.rows.trunk]
        for shared, gradients, term in self.seen:
            outputs, factors = [], []
            if shared.requires_grad:
                outputs.append(shared)
                factors.append(self._factor(shared, gradients, weights * alpha))
            if term is not None:
                outputs.append(term)
                factors.append(torch.ones_like(term) / self.scale)
            if outputs:
                torch._foreach_add_(total, self.differentiate(outputs, factors))
        return total

    def _factor(self, shared: Tensor, gradients: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Return what is sent back through the trunk (B, *)."""
        masks: Sequence[Tensor | None] = [None] * len(gradients)
        if self.masks is not None:
            masks = self.masks.view(len(gradients), 1, *shared.shape[1:]).unbind()
        factor = torch.zeros_like(shared, dtype=at_least_float32(shared).dtype)
        for gradient, mask, weight in zip(gradients, masks, weights.to(factor.dtype).unbind(), strict=True):
            factor.addcmul_(at_least_float32(gradient), weight if mask is None else weight * mask)
        return factor.to(shared.dtype)
