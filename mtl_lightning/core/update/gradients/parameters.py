"""Gradients with respect to all shared parameters, exact for every method.

Each task's loss is a separate scalar, so that its backward runs its own head and the trunk and nothing else. The rows
are summed over micro-batches and processes *before* anything non-linear is done with them, in one flat all-reduce of
P x D + H + h numbers (P tasks present, D shared parameters, H numbers in the h parameters of single tasks); in two
where the balancer's weights multiply the heads' gradients too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import GradientBalancer, GramianBalancer, PerParameter, WeighsHeads
from mtl_lightning.core.network.network import Network, at_least_float32
from mtl_lightning.core.optim.build import sparse_parameters
from mtl_lightning.core.update.gradients.base import GradientLevel, Gradients, WeightedLosses
from mtl_lightning.core.update.gradients.jacobian import Jacobian, RowMemory
from mtl_lightning.core.update.losses import aux_term, window_losses
from mtl_lightning.core.update.window import Window
from mtl_lightning.types import ConfigurationError


class ParameterLevel(GradientLevel):
    """Rows are the gradients of all shared parameters; one set of them for each part that the balancer asks for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.jacobians: list[Jacobian] = []

    def look(self) -> None:
        """Look at every micro-batch of every part once."""
        parts = self.window.split(self.network.balancer.parts, self.network.tasks, self.runtime)
        for part in parts:
            self.jacobians.append(self._rows(part, self.memory if len(parts) == 1 else RowMemory()))
        if len(parts) > 1:
            self.losses.mean_over(len(parts))
        if isinstance(self.network.balancer, PerParameter):
            self.network.balancer.sizes = tuple(self.jacobians[0].sizes)

    def _rows(self, part: Window, memory: RowMemory) -> Jacobian:
        """Return this process's rows of the present tasks' scaled losses, and one of the auxiliary losses, if any."""
        jacobian: Jacobian | None = None
        everything = range(len(self.task_gradients.parameters))
        for batch in part.batches:
            values, aux = window_losses(self.network, self.runtime, part, batch)
            self.losses.add(torch.stack(values), aux, len(part.batches))
            terms = [values[index] * self.scale for index in self.present_indices]
            if aux:
                terms.append(aux_term(self.runtime, aux, len(part.batches)))
            if jacobian is None:
                jacobian = Jacobian(self.trunk, self.task_gradients, len(terms), memory)
            try:
                jacobian.add(terms, [*self.reach, *([everything] if aux else [])])
            except RuntimeError:  # of sparse gradients, say, under several datasets, whose number is known only now
                check_shared(self.network, len(part.batches))
                raise
        assert jacobian is not None  # a window holds at least one batch
        return jacobian

    def reduce(self, weighted: WeightedLosses) -> tuple[Gradients, Tensor | None]:
        """Sum the rows over processes, and combine them as the balancer does."""
        first = self.jacobians[0]
        number, parts = len(self.present_indices), len(self.jacobians)
        weights = weighted.weights[self.present_indices] / self.scale
        rows = [jacobian.rows for jacobian in self.jacobians]
        singles = [] if self.weighs_heads else self.task_gradients.weighted(self.with_aux(weights) / parts)
        reduced = self.runtime.summed([*rows, *singles], owned=parts)  # nobody reads this process's rows again
        rows, singles = reduced[:parts], reduced[parts:]
        trunk, alpha = self._combine(rows, weights, weighted.losses[self.present_indices])
        if len(first.rows) > number:  # the last row is that of the auxiliary losses
            own = torch.stack([row[number:].sum(0) for row in rows]).mean(0)
            trunk = trunk + (own / self.scale).to(trunk.dtype)
        if self.weighs_heads:
            heads = weights if alpha is None else weights * alpha
            singles = self.runtime.summed(self.task_gradients.weighted(self.with_aux(heads) / parts))
        return [*_by_parameter(first, trunk), *self.task_gradients.reached_anywhere(singles)], alpha

    def _combine(self, jacobians: list[Tensor], weights: Tensor, losses: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the trunk's gradient (D,) and, of methods that have them, the weights (P,) of the weighted rows."""
        balancer, present, number = self.network.balancer, self.window.present, len(weights)
        tasks = [at_least_float32(jacobian[:number]) for jacobian in jacobians]
        dtype = jacobians[0].dtype
        weights = weights.to(tasks[0].dtype)
        if not tasks[0].shape[1]:
            return jacobians[0].new_zeros(0), None
        if isinstance(balancer, GramianBalancer) and balancer.gramian:
            products = gramian(tasks[0]) * weights.unsqueeze(1) * weights
            alpha = self.method_weights(balancer, products, losses.double()).to(weights.dtype)
            return ((alpha * weights) @ tasks[0]).to(dtype), alpha
        weighted = [rows * weights.unsqueeze(1) for rows in tasks]
        rows = weighted[0] if len(weighted) == 1 else torch.stack(weighted)
        if not isinstance(balancer, GradientBalancer) or not self.may_show(rows):
            return weighted[0].sum(0).to(dtype), None
        combined = balancer.gradient(rows, losses.to(rows.dtype), present)
        combined = combined.to(dtype, copy=True)  # a method may return what it keeps
        if balancer.weight_heads and isinstance(balancer, WeighsHeads):
            return combined, balancer.head_weights(present, number)
        return combined, None


def check_shared(network: Network, accumulate: int) -> None:
    """Refuse gradients that rows cannot be made of.

    Args:
        network: the network, built.
        accumulate: the number of batches of an update.

    Raises:
        ConfigurationError: for sparse gradients, if one gradient per task is needed.
    """
    if network.balancer.wants_rows(accumulate) and sparse_parameters(network):
        raise ConfigurationError(
            f"{type(network.balancer).__name__} takes one whole gradient per task: expected embeddings without "
            "`sparse`, found `nn.Embedding(sparse=True)`. Leave `sparse` out, or use a balancer of losses such as "
            "UncertaintyWeighting (one that is not affine takes them from a single dataset alone, with "
            "`accumulate_grad_batches: 1`)."
        )


def _by_parameter(jacobian: Jacobian, trunk: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    pairs = zip(jacobian.trunk, torch.split(trunk, jacobian.sizes), strict=True)
    return [(parameter, piece.view_as(parameter)) for parameter, piece in pairs]
