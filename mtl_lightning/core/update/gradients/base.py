"""What every level has in common: look at each micro-batch once, weigh, reduce over processes once, deliver once.

Nothing non-linear is done before the sums over micro-batches and processes are complete, so the update is that of one
process on the whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.rows import GradientBalancer, GramianBalancer
from mtl_lightning.core.host_number import is_waited_for, now
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.on_device import on_device
from mtl_lightning.core.optim.taking_back import Before
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.gradients.jacobian import RowMemory, TaskGradients, put_gradients, reach
from mtl_lightning.core.update.losses import Losses, aux_term
from mtl_lightning.core.update.window import Window

Gradients: TypeAlias = list[tuple[nn.Parameter, Tensor]]


@dataclass
class WeightedLosses:
    """What a loss balancer says of the losses of all processes.

    Attributes:
        losses: (T,).
        weights: (T,) the objective's derivatives by the losses.
        learned: the gradients of what the balancer itself learns.
    """

    losses: Tensor
    weights: Tensor
    learned: Gradients


class GradientLevel(ABC):
    """One gradient per present task of a window, with respect to all shared parameters or to what stands in for them.

    Args:
        network: the network.
        runtime: where it runs.
        window: the micro-batches, counted.
        memory: for the rows, between updates.
        trusting: whether a method may be shown values that are inf or nan; otherwise their plain sum is delivered,
            which is not finite either, and which the policy on such gradients then finds.

    Attributes:
        losses: what this process found of the window's losses.
        present_indices: the places of the present tasks among all tasks.
        task_gradients: the gradients of the parameters of single tasks, term by term; the last term is the auxiliary
            losses.
        scale: what a gradient scaler multiplies losses by.
    """

    def __init__(
        self, network: Network, runtime: Runtime, window: Window, memory: RowMemory, trusting: bool = False
    ) -> None:
        self.network, self.runtime, self.window = network, runtime, window
        self.memory, self.trusting = memory, trusting
        self.losses = Losses()
        self.present_indices = window.present_indices
        self.trunk, task_parameters = network.roles.trained
        self.task_gradients = TaskGradients(task_parameters, alone=runtime.world_size == 1)
        self.scale = runtime.loss_scale()

    def differentiate(self) -> Losses:
        """Leave the gradient of the window, over all processes, in ``.grad``."""
        self.look()
        weighted = self.weigh()
        with self.runtime.full_precision(), self.runtime.no_gradient_sync():
            gradients, alpha = self.reduce(weighted)
            self.losses.weights = weighted.weights
            if alpha is not None:
                self.losses.weights = self._times(weighted.weights, alpha)
            gradients += weighted.learned
            if not self.runtime.deliver(gradients):
                self.runtime.backward(put_gradients(gradients))
        return self.losses

    @abstractmethod
    def look(self) -> None:
        """Forward every micro-batch once, and take what the weights follow from."""

    def weigh(self) -> WeightedLosses:
        """Differentiate the balancer's objective at the losses of all processes, and note it."""
        balancer, runtime, losses = self.network.balancer, self.runtime, self.losses
        found, present = runtime.all_sum(losses.tasks).detach(), self.window.present
        learned = [parameter for parameter in balancer.parameters() if parameter.requires_grad]
        own: Sequence[Tensor] = ()
        if runtime.fast_paths and not learned and balancer.sums_losses():
            objective, weights = torch.where(present, found, 0.0).sum(), present.to(found.dtype)
        else:
            leaf = found.clone().requires_grad_()
            objective = balancer.objective(leaf, present)
            weights, *own = torch.autograd.grad(objective, [leaf, *learned], allow_unused=True, materialize_grads=True)
        aux = sum(runtime.all_sum(value) / runtime.world_size for value in losses.aux.values())
        losses.objective = objective.detach() + aux
        return WeightedLosses(found, weights, list(zip(learned, own, strict=True)))

    def reduce(self, weighted: WeightedLosses) -> tuple[Gradients, Tensor | None]:
        """Return every parameter's gradient, summed over processes, and the method's weights (P,) if it has some.

        Here: inner products of what stands in for the shared parameters give the weights, and one more backward
        through the trunk gives its gradient.
        """
        weights = self.unscaled(weighted)
        alpha = self.task_weights(weights, weighted)
        heads = weights * alpha if self.weighs_heads else weights
        trunk = self.trunk_gradients(weights, alpha)
        reduced = self.runtime.summed([*trunk, *self.task_gradients.weighted(self.with_aux(heads))])
        gradients = list(zip(self.trunk, reduced[: len(trunk)], strict=True))
        return [*gradients, *self.task_gradients.reached_anywhere(reduced[len(trunk) :])], alpha

    def task_weights(self, weights: Tensor, weighted: WeightedLosses) -> Tensor:
        """Return the method's weights (P,) of the rows, which ``weights`` (P,) are multiplied into."""
        balancer = self.network.balancer
        products = self.gramian() * weights.unsqueeze(1) * weights
        if not isinstance(balancer, GramianBalancer):
            return torch.ones_like(weights)
        losses = self.of_present(weighted.losses).double()
        return self.method_weights(balancer, products, losses).to(weights.dtype)

    def gramian(self) -> Tensor:
        """Return the inner products (P, P) of the scaled rows over all processes."""
        raise NotImplementedError

    def trunk_gradients(self, weights: Tensor, alpha: Tensor) -> list[Tensor]:
        """Return this process's gradient of each shared parameter."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------------------- pieces
    @cached_property
    def places(self) -> Tensor:
        """The places of the present tasks among all tasks, (P,) int64 on the device."""
        return on_device(self.present_indices, self.runtime.device, torch.long)

    def of_present(self, values: Tensor) -> Tensor:
        """Return the entries (P,) of the present tasks among those of all tasks (T,)."""
        return values if len(self.present_indices) == len(values) else values[self.places]

    def unscaled(self, weighted: WeightedLosses) -> Tensor:
        """Return what the scaled losses (P,) of the present tasks are weighed with."""
        weights = self.of_present(weighted.weights)
        return weights / self.scale if isinstance(self.scale, Tensor) else weights

    @cached_property
    def reach(self) -> list[list[int]]:
        """The indices among the parameters of single tasks that each present task's loss may depend on."""
        reachable = reach(self.network, self.task_gradients.parameters)
        return [reachable[index] for index in self.present_indices]

    def owners(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Return (index among the parameters of single tasks, row of its task) of the parameters of these tasks."""
        roles = self.network.roles.tasks
        places = {id(parameter): index for index, parameter in enumerate(self.task_gradients.parameters)}
        rows = {name: row for row, name in enumerate(self.window.names)}
        return [(places[id(p)], rows[name]) for name in names for p in roles[name].values() if id(p) in places]

    @property
    def weighs_heads(self) -> bool:
        """Whether the method's weights multiply the gradients of the tasks' own parameters, too."""
        balancer = self.network.balancer
        return isinstance(balancer, GradientBalancer) and balancer.weight_heads

    def may_show(self, values: Tensor) -> bool:
        """Whether a method may be shown these values: they are finite, or nobody asks."""
        if self.trusting:
            return True
        finite = torch.isfinite(values).all()
        return bool(now(finite)) if self.runtime.fast_paths else bool(finite)

    def method_weights(self, balancer: GramianBalancer, products: Tensor, losses: Tensor) -> Tensor:
        """Return a method's weights (P,) of inner products (P, P) and losses (P,).

        Where it may not be shown them they are 1, and it keeps nothing of them. A device whose work would be waited for
        finds out by itself.
        """
        present, number = self.window.present, len(products)
        leave = self.runtime.fast_paths and is_waited_for(products) and not self.trusting
        if not leave or balancer.solves_on_host or not balancer.changes_tensors_only():
            shown = self.may_show(products)
            return balancer.task_weights(products, losses, present) if shown else products.new_ones(number)
        finite = torch.isfinite(products).all()
        usable = torch.where(finite, products, torch.eye(number, dtype=products.dtype, device=products.device))
        before = Before([*balancer.buffers()])
        weights = balancer.task_weights(usable, losses, present)
        before.restore(~finite)
        return torch.where(finite, weights, 1.0)

    def with_aux(self, weights: Tensor) -> Tensor:
        """Return the weights of the terms: (P,) of the present tasks, and one more if there are auxiliary losses."""
        if not self.losses.aux or not len(weights):
            return weights
        return torch.cat([weights, torch.ones_like(weights[:1]) / self.scale])

    def _times(self, weights: Tensor, alpha: Tensor) -> Tensor:
        """Return weights (T,) with those of the present tasks multiplied by alpha (P,)."""
        if len(alpha) == len(weights):
            return weights * alpha.to(weights.dtype)
        return weights.index_put((self.places,), weights[self.places] * alpha.to(weights.dtype))

    def aux_term(self, aux: Mapping[str, Tensor]) -> Tensor | None:
        """Return the scaled auxiliary loss (), or None; its gradients of single tasks' parameters are added."""
        term = aux_term(self.runtime, aux, len(self.window.batches)) if aux else None
        if term is None or not term.requires_grad:
            return None
        parameters = self.task_gradients.parameters
        if parameters:
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            self.task_gradients.add(len(self.present_indices), found, range(len(found)))
        return term

    def of_task(self, row: int, loss: Tensor, towards: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Return one task's gradients with respect to some tensors; those of single tasks' parameters it adds."""
        places = self.reach[row]
        targets = [*towards, *(self.task_gradients.parameters[place] for place in places)]
        found = torch.autograd.grad(loss, targets, retain_graph=True, allow_unused=True)
        self.task_gradients.add(row, found[len(towards) :], places)
        return found[: len(towards)]

    def through_trunk(self, outputs: Sequence[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
        """Return the trunk's gradients of some tensors times some factors; 0 where there is no path."""
        found: Any = torch.autograd.grad(
            list(outputs), self.trunk, list(factors), allow_unused=True, materialize_grads=True
        )
        return list(found)
