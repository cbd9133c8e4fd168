"""Gradients with respect to the features that all heads read.

One backward through the heads gives each task's gradient of them, whose inner products add up over the disjoint samples
of micro-batches and processes (P x P numbers); one backward through the trunk follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import MasksFeatures
from mtl_lightning.core.network.graph import run_heads
from mtl_lightning.core.network.network import at_least_float32
from mtl_lightning.core.update.gradients.base import GradientLevel, WeightedLosses
from mtl_lightning.core.update.losses import losses_together, separate_losses
from mtl_lightning.types import Batch, ConfigurationError


class FeatureLevel(GradientLevel):
    """Gradients with respect to the features that all tasks' heads read.

    Raises:
        ConfigurationError: if the tasks do not read the same features.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.met: list[tuple[Tensor, list[Tensor], Tensor | None]] = []  # features, tasks' gradients, auxiliary losses
        self.products: Tensor | None = None
        self.signed: Tensor | None = None
        self.masks: Tensor | None = None

    def look(self) -> None:
        """Forward every micro-batch, and go back through its heads."""
        for batch in self.window.batches:
            self._update(batch)

    def _update(self, batch: Batch) -> None:
        network, graph = self.network, self.network.graph
        names = self.window.names_in(batch)
        wanted = graph.needed(names)
        found = network.architecture(batch["inputs"], wanted)
        shared = self._shared(found.per_task) if wanted else torch.zeros((), device=self.runtime.device)
        leaves = {name: shared.detach().requires_grad_() for name in wanted}
        heads: Any = network.heads
        outputs = run_heads(graph, wanted, leaves, heads, network.tasks)
        of_outputs = network.architecture.output_losses(outputs)
        if of_outputs:  # which are to reach the trunk as well: once more through the heads, not from leaves
            again = run_heads(graph, wanted, dict.fromkeys(wanted, shared), heads, network.tasks)
            of_outputs = network.architecture.output_losses(again)
        aux = {name: at_least_float32(value) for name, value in {**found.aux, **of_outputs}.items()}
        open_edges = any(not edge.stop_gradient for name in wanted for edge in graph.edges[name].values())
        way = self._task_by_task if open_edges else self._all_at_once
        gradients, values = way(batch, names, outputs, leaves)
        self.losses.add(values, aux, len(self.window.batches))
        self.met.append((shared, gradients, self.aux_term(aux)))
        self._note(shared, gradients)

    def _all_at_once(
        self, batch: Batch, names: list[str], outputs: dict[str, Tensor], leaves: dict[str, Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """One backward for all heads: each task's loss reaches its own copy of the features and its own head only."""
        values = losses_together(self.network, self.runtime, self.window, batch, names, outputs)
        owners = self.owners(names)
        parameters = self.task_gradients.parameters
        targets = [leaves[name] for name in names] + [parameters[index] for index, _ in owners]
        found: Any = ()
        if names:
            found = torch.autograd.grad(values.sum() * self.scale, targets, allow_unused=True)
        gradients = dict(zip(names, found, strict=False))
        for (index, row), gradient in zip(owners, found[len(names) :], strict=True):
            self.task_gradients.add(row, [gradient], [index])
        return [self._or_zero(gradients.get(name), leaves) for name in self.window.names], values

    def _task_by_task(
        self, batch: Batch, names: list[str], outputs: dict[str, Tensor], leaves: dict[str, Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """One backward per task, which may reach other tasks' heads through the estimates that it reads."""
        values = separate_losses(self.network, self.runtime, self.window, batch, names, outputs)
        gradients = []
        for row, index in enumerate(self.present_indices):
            if not values[index].requires_grad:
                gradients.append(self._or_zero(None, leaves))
                continue
            found = self.of_task(row, values[index] * self.scale, list(leaves.values()))
            gradients.append(torch.stack([gradient for gradient in found if gradient is not None]).sum(0))
        return gradients, torch.stack(values)

    def _or_zero(self, gradient: Tensor | None, leaves: Mapping[str, Tensor]) -> Tensor:
        some = next(iter(leaves.values()), None)
        if gradient is None:
            return torch.zeros(()) if some is None else torch.zeros_like(some)
        return gradient

    def _shared(self, per_task: Mapping[str, Tensor]) -> Tensor:
        """Return the one tensor of features that every task reads."""
        tensors = list(per_task.values())
        if self.network.architecture.final or any(tensor is not tensors[0] for tensor in tensors):
            name, architecture = type(self.network.balancer).__name__, type(self.network.architecture).__name__
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
        with self.runtime.full_precision():
            if not isinstance(self.network.balancer, MasksFeatures):
                part = gramian(gradients)
                self.products = part if self.products is None else self.products + part
            else:
                signs = at_least_float32(shared.detach()).sign()
                part = torch.stack([(at_least_float32(gradient) * signs).sum(0).flatten() for gradient in gradients])
                self.signed = part if self.signed is None else self.signed + part

    def gramian(self) -> Tensor:
        """Sum the inner products over processes."""
        number = len(self.present_indices)
        local = self.products
        if local is None:
            local = torch.zeros(number, number, dtype=torch.float64, device=self.runtime.device)
        return self.runtime.all_sum(local)

    def task_weights(self, weights: Tensor, weighted: WeightedLosses) -> Tensor:
        """Return the method's weights (P,); 1 of methods that mask features instead."""
        balancer = self.network.balancer
        if not isinstance(balancer, MasksFeatures):
            return super().task_weights(weights, weighted)
        assert self.signed is not None
        signed = self.runtime.all_sum(self.signed) * weights.unsqueeze(1)
        self.masks = balancer.masks(signed, self.window.present) if self.may_show(signed) else None
        return torch.ones_like(weights)

    def trunk_gradients(self, weights: Tensor, alpha: Tensor) -> list[Tensor]:
        """Go back through the trunk once, from the weighted or masked sum of the features' gradients."""
        total = [torch.zeros_like(parameter) for parameter in self.trunk]
        for shared, gradients, term in self.met:
            outputs, factors = [], []
            if shared.requires_grad:
                outputs.append(shared)
                factors.append(self._factor(shared, gradients, weights * alpha))
            if term is not None:
                outputs.append(term)
                factors.append(torch.ones_like(term) / self.scale)
            if outputs:
                torch._foreach_add_(total, self.through_trunk(outputs, factors))
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
