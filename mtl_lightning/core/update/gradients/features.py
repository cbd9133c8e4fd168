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
from mtl_lightning.core.network.cut_features import CutFeatures
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
        self.met: list[tuple[Tensor, Tensor, Tensor | None]] = []  # features, their gradients, auxiliary losses
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
        cut = CutFeatures(dict.fromkeys(wanted, shared))
        heads: Any = network.heads
        open_edges = any(not edge.stop_gradient for name in wanted for edge in graph.edges[name].values())
        outputs = network.run_heads(cut, together=not open_edges)
        of_outputs = network.architecture.output_losses(outputs)
        if of_outputs:  # which are to reach the trunk as well: once more through the heads, not from leaves
            again = run_heads(graph, wanted, dict.fromkeys(wanted, shared), heads, network.tasks)
            of_outputs = network.architecture.output_losses(again)
        aux = {name: at_least_float32(value) for name, value in {**found.aux, **of_outputs}.items()}
        way = self._task_by_task if open_edges else self._all_at_once
        rows, values = way(batch, names, outputs, shared, cut)
        self.losses.add(values, aux, len(self.window.batches))
        self.met.append((shared, rows, self.aux_term(aux)))
        self._note(shared, rows)

    def _all_at_once(
        self, batch: Batch, names: list[str], outputs: dict[str, Tensor], shared: Tensor, cut: CutFeatures
    ) -> tuple[Tensor, Tensor]:
        """One backward for all heads: each task's loss reaches its own copy of the features and its own head only.

        Returns:
            the gradients of the features (P, B, *), and the losses (T,).
        """
        values = losses_together(self.network, self.runtime, self.window, batch, names, outputs)
        owners = self.owners(names)
        parameters = self.task_gradients.parameters
        found: Any = ()
        if names:
            targets = [*cut.targets, *(parameters[index] for index, _ in owners)]
            found = torch.autograd.grad(values.sum() * self.scale, targets, allow_unused=True)
            for (index, row), gradient in zip(owners, found[len(cut.targets) :], strict=True):
                self.task_gradients.add(row, [gradient], [index])
        return cut.rows(found, self.window.names, shared), values

    def _task_by_task(
        self, batch: Batch, names: list[str], outputs: dict[str, Tensor], shared: Tensor, cut: CutFeatures
    ) -> tuple[Tensor, Tensor]:
        """One backward per task, which may reach other tasks' heads through the estimates that it reads."""
        values = separate_losses(self.network, self.runtime, self.window, batch, names, outputs)
        gradients, zero = [], torch.zeros_like(shared)
        for row, index in enumerate(self.present_indices):
            if not values[index].requires_grad:
                gradients.append(zero)
                continue
            found = self.of_task(row, values[index] * self.scale, [cut[name] for name in cut])
            gradients.append(torch.stack([gradient for gradient in found if gradient is not None]).sum(0))
        return torch.stack(gradients), torch.stack(values)

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

    def _note(self, shared: Tensor, rows: Tensor) -> None:
        """Add a micro-batch, with gradients (P, B, *), to the statistics that the weights or the masks follow from."""
        if not shared.dim():
            return
        with self.runtime.full_precision():
            if not isinstance(self.network.balancer, MasksFeatures):
                part = gramian(rows.flatten(1))
                self.products = part if self.products is None else self.products + part
            else:
                signs = at_least_float32(shared.detach()).sign()
                part = torch.stack([(at_least_float32(gradient) * signs).sum(0).flatten() for gradient in rows])
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
        total: list[Tensor] = []
        for shared, rows, term in self.met:
            outputs, factors = [], []
            if shared.requires_grad:
                outputs.append(shared)
                factors.append(self._factor(shared, rows, weights * alpha))
            if term is not None:
                outputs.append(term)
                factors.append(torch.ones_like(term) / self.scale)
            if outputs:
                found = self.through_trunk(outputs, factors)
                total = list(torch._foreach_add(total, found)) if total else found
        return total or [torch.zeros_like(parameter) for parameter in self.trunk]

    def _factor(self, shared: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """Return what is sent back through the trunk (B, *), from the features' gradients (P, B, *)."""
        wide = at_least_float32(shared).dtype
        weights = weights.to(wide)
        if self.masks is None and rows.dtype == wide:
            return (weights @ rows.flatten(1)).view_as(shared)
        masks: Sequence[Tensor | None] = [None] * len(rows)
        if self.masks is not None:
            masks = self.masks.view(len(rows), 1, *shared.shape[1:]).unbind()
        factor = torch.zeros_like(shared, dtype=wide)
        for gradient, mask, weight in zip(rows, masks, weights.unbind(), strict=True):
            factor.addcmul_(gradient.to(wide), weight if mask is None else weight * mask)
        return factor.to(shared.dtype)
