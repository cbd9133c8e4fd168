"""Gradients with respect to all shared parameters, exact for every method.

In the plain way each task's loss is a separate scalar, so that its backward runs its own head and the trunk and nothing
else. Where a network is features and then heads, one backward through all heads comes first, and rows start at the
features (:func:`may_go_apart`).

The rows are summed over micro-batches and processes *before* anything non-linear is done with them, in one flat
all-reduce of P x D + H + h numbers (P tasks present, D shared parameters, H numbers in the h parameters of single
tasks); in two where the balancer's weights multiply the heads' gradients too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.architectures.base import Architecture
from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import GradientBalancer, GramianBalancer, PerParameter, WeighsHeads
from mtl_lightning.core.network.cut_features import CutFeatures
from mtl_lightning.core.network.network import Network, at_least_float32
from mtl_lightning.core.optim.build import sparse_parameters
from mtl_lightning.core.update.gradients.base import GradientLevel, Gradients, WeightedLosses
from mtl_lightning.core.update.gradients.jacobian import Jacobian, RowMemory, Term, anyones
from mtl_lightning.core.update.gradients.linear_layers import reaches
from mtl_lightning.core.update.losses import aux_term, losses_together, separate_losses, window_losses
from mtl_lightning.core.update.window import Window
from mtl_lightning.types import Batch, ConfigurationError

_MOST = 1 << 23
"""The numbers of all tasks' features up to which all heads come first, which keeps all gradients of these at once."""


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
        apart = may_go_apart(self.network) and not self.memory.in_place_heads
        way = self._through_features if apart else self._whole_losses
        for batch in part.batches:
            sums, aux = way(part, batch)
            if aux:
                term = Term(aux_term(self.runtime, aux, len(part.batches)), range(len(self.task_gradients.parameters)))
                nothing = Term(torch.zeros_like(term.output))
                sums = [[*terms, term if index == 0 else nothing] for index, terms in enumerate(sums)]
            if jacobian is None:
                fast, only = self.runtime.fast_paths, len(sums) == 1 and self._needs_products_only(part)
                jacobian = Jacobian(self.trunk, self.task_gradients, len(sums[0]), memory, fast, only)
            try:
                while sums:
                    jacobian.add(sums.pop())
            except RuntimeError:  # of sparse gradients, say, under several datasets, whose number is known only now
                check_shared(self.network, len(part.batches))
                raise
        assert jacobian is not None  # a window holds at least one batch
        return jacobian

    def _needs_products_only(self, part: Window) -> bool:
        """Whether inner products of the rows of one micro-batch, and a weighted sum, are all that is needed.

        Products of rows that are summed over processes need the rows, and so do those summed over micro-batches.
        """
        balancer, alone = self.network.balancer, self.runtime.world_size == 1
        return alone and len(part.batches) == 1 and isinstance(balancer, GramianBalancer) and balancer.gramian

    def _whole_losses(self, part: Window, batch: Batch) -> tuple[list[list[Term]], dict[str, Tensor]]:
        """Forward a micro-batch, note its losses, and return what its rows are gradients of: each task's loss."""
        values, aux = window_losses(self.network, self.runtime, part, batch)
        return self._of_losses(values, aux, part), aux

    def _through_features(self, part: Window, batch: Batch) -> tuple[list[list[Term]], dict[str, Tensor]]:
        """Like :meth:`_whole_losses`, but the heads of all tasks are gone through at once: then rows start at features.

        Each task's head reads features of its own, cut off from the trunk, so that one backward gives every head's
        gradients and those of each task's features, from which a row goes on through the trunk alone.
        """
        network = self.network
        names = part.names_in(batch)
        wanted = network.graph.needed(names)
        try:
            found = network.architecture(batch["inputs"], wanted)
            features = {name: found.per_task[name] for name in wanted}
            cut = CutFeatures(features)
            few = sum(tensor.numel() for tensor in features.values()) <= _MOST
            outputs = network.run_heads(cut if few else features, together=few)
        except ValueError:
            network.run(batch["inputs"], names)  # which says what is wrong
            raise
        except RuntimeError as error:
            if "in-place" not in str(error):
                raise
            self.memory.in_place_heads = True
            return self._whole_losses(part, batch)
        aux = {name: at_least_float32(value) for name, value in found.aux.items()}
        if not few:
            return self._of_losses(separate_losses(network, self.runtime, part, batch, names, outputs), aux, part), aux
        values = losses_together(network, self.runtime, part, batch, names, outputs)
        self.losses.add(values, aux, len(part.batches))
        apart = self._is_apart(names, values)
        owners = self.owners(names) if apart else []
        anyone = anyones(network, self.task_gradients.parameters)
        terms = [Term(torch.zeros(())) for _ in self.present_indices]
        if names:
            targets = [*cut.targets, *(self.task_gradients.parameters[index] for index, _ in owners)]
            total = values.sum() * self.scale
            gradients = torch.autograd.grad(total, targets, allow_unused=True, retain_graph=not apart)
            for (index, row), gradient in zip(owners, gradients[len(cut.targets) :], strict=True):
                self.task_gradients.add(row, [gradient], [index])
            by_name = cut.gradients(gradients)
            if not apart:  # what was written will be written again
                by_name = {name: gradient.clone() for name, gradient in by_name.items()}
            for row, name in enumerate(self.window.names):
                if name in by_name:
                    terms[row] = Term(features[name], anyone, by_name[name])
        if apart:
            return [terms], aux
        return [terms, self._terms(values)], aux

    def _of_losses(self, values: Sequence[Tensor], aux: Mapping[str, Tensor], part: Window) -> list[list[Term]]:
        """Note the losses () of one micro-batch, and return them as what rows are gradients of."""
        self.losses.add(torch.stack([*values]), aux, len(part.batches))
        return [self._terms(values)]

    def _terms(self, values: Sequence[Tensor] | Tensor) -> list[Term]:
        pairs = zip(self.present_indices, self.reach, strict=True)
        return [Term(values[index] * self.scale, reach) for index, reach in pairs]

    def _is_apart(self, names: Sequence[str], values: Tensor) -> bool:
        """Whether these losses reach no shared parameter but through the features, as far as their graph was looked at.

        A head may hold a shared parameter without telling (in a list, say, to use the transpose of its weight).
        """
        known = self.memory.apart
        if not all(name in known for name in names):
            alone = not reaches(values, self.trunk)
            known.update(dict.fromkeys(names, alone))
        return all(known[name] for name in names)

    def reduce(self, weighted: WeightedLosses) -> tuple[Gradients, Tensor | None]:
        """Sum the rows over processes, and combine them as the balancer does."""
        first = self.jacobians[0]
        number, parts = len(self.present_indices), len(self.jacobians)
        weights = self.unscaled(weighted)
        rows = [jacobian.rows for jacobian in self.jacobians]
        singles = [] if self.weighs_heads else self.task_gradients.weighted(self.with_aux(weights) / parts)
        reduced = self.runtime.summed([*rows, *singles], owned=parts)  # nobody reads this process's rows again
        rows, singles = reduced[:parts], reduced[parts:]
        trunk, alpha = self._combine(rows, weights, self.of_present(weighted.losses))
        if len(first.rows) > number:  # the last row is that of the auxiliary losses
            own = torch.stack([row[number:].sum(0) for row in rows]).mean(0)
            trunk = trunk + (own / self.scale).to(trunk.dtype)
        combined = self.with_aux(weights if alpha is None else weights * alpha)
        if self.weighs_heads:
            singles = self.runtime.summed(self.task_gradients.weighted(combined / parts))
        shared = first.by_place(trunk, combined[: len(first.rows)])
        gradients = [(parameter, shared[place]) for place, parameter in enumerate(first.trunk)]
        return [*gradients, *self.task_gradients.reached_anywhere(singles)], alpha

    def _combine(self, jacobians: list[Tensor], weights: Tensor, losses: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the trunk's gradient (D,) and, of methods that have them, the weights (P,) of the weighted rows."""
        balancer, present, number = self.network.balancer, self.window.present, len(weights)
        tasks = [at_least_float32(jacobian[:number]) for jacobian in jacobians]
        dtype = jacobians[0].dtype
        weights = weights.to(tasks[0].dtype)
        if not sum(self.jacobians[0].sizes):
            return jacobians[0].new_zeros(0), None
        if isinstance(balancer, GramianBalancer) and balancer.gramian:
            unwritten = [each.gramian(number) for each in self.jacobians[0].unwritten.values()]
            products = sum(unwritten, gramian(tasks[0])) * weights.unsqueeze(1) * weights
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


def may_go_apart(network: Network) -> bool:
    """Whether the network is features and then heads, of which none reaches another one, and nobody has changed that.

    It is not so where parameters have no known role, or losses of the outputs are to reach the trunk.
    """
    architecture, edges = network.architecture, network.graph.edges
    return (
        network.fast_paths
        and not architecture.final
        and type(network).run is Network.run
        and "run" not in vars(network)
        and type(architecture).output_losses is Architecture.output_losses
        and not any(parameter.requires_grad for parameter in network.roles.unknown.values())
        and all(edge.stop_gradient for read in edges.values() for edge in read.values())
    )


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
