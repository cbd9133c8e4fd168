"""Task weights from something cheaper than the gradients of all shared parameters; then one backward of the sum.

Of the features that all heads read (:mod:`mtl_lightning.core.features`), or of the last shared layer
(:mod:`mtl_lightning.core.last_layer`). In both cases the D numbers of the trunk and the H of the heads are summed over
processes, and the graphs of a window's micro-batches are held until the weights are known: accumulation saves no memory
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtl_lightning.balancing.rows import GradientBalancer, GramianBalancer
from mtl_lightning.core.jacobian import Weighed, is_finite, summed, trained, weigh
from mtl_lightning.core.losses import Losses, aux_term, full_precision
from mtl_lightning.core.rows import Rows, put_gradients, reach, reached_others
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class Probe:
    """What stands in for all shared parameters, and how their gradient follows from it.

    Attributes:
        here: the indices of the present tasks.
        rows: the gradients of the parameters of single tasks, term by term; the last term is the auxiliary losses.
        reach: the indices among these that each present task's loss may depend on.
    """

    def __init__(self, module: MultiTaskModule, balancer: GradientBalancer, counts: Mapping[str, float]) -> None:
        self.module, self.balancer, self.counts = module, balancer, counts
        self.here = [index for index, count in enumerate(counts.values()) if count]
        trunk, others = trained(module)
        self.rows = Rows([], others, len(self.here) + 1) if others else Rows(trunk, [], 0)
        self.rows.trunk = trunk
        reachable = [*reach(module, others).values()]
        self.reach = [reachable[index] for index in self.here]
        self.scale = module.loss_scale()

    def see(self, batch: Batch, seen: Losses, parts: int) -> None:
        """Forward one of ``parts`` micro-batches, and take what the weights follow from."""
        raise NotImplementedError

    def gramian(self) -> Tensor:
        """Return the inner products (P, P) of the scaled rows over all processes."""
        raise NotImplementedError

    def task_weights(self, weights: Tensor, weighed: Weighed, present: Tensor) -> Tensor:
        """Return the method's weights (P,) of the weighed rows."""
        gramian = self.gramian() * weights.unsqueeze(1) * weights
        if not isinstance(self.balancer, GramianBalancer) or not is_finite(self.module, gramian):
            return torch.ones_like(weights)
        return self.balancer.task_weights(gramian, weighed.losses[self.here].to(gramian.dtype), present)

    def trunk_gradients(self, weights: Tensor, alpha: Tensor) -> list[Tensor]:
        """Return this process's gradient of each shared parameter."""
        raise NotImplementedError

    def aux_term(self, aux: Mapping[str, Tensor], parts: int) -> Tensor | None:
        """Return the scaled auxiliary loss (), or None; its gradients of single tasks' parameters are added."""
        term = aux_term(self.module, aux, parts) if aux else None
        if term is None or not term.requires_grad:
            return None
        if self.rows.others:
            found = torch.autograd.grad(term, self.rows.others, retain_graph=True, allow_unused=True)
            self.rows.add_others(len(self.here), found, range(len(found)))
        return term

    def of_task(self, row: int, loss: Tensor, towards: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Return one task's gradients with respect to some tensors; those of single tasks' parameters it adds."""
        places = self.reach[row]
        targets = [*towards, *(self.rows.others[place] for place in places)]
        found = torch.autograd.grad(loss, targets, retain_graph=True, allow_unused=True)
        self.rows.add_others(row, found[len(towards) :], places)
        return found[: len(towards)]

    def differentiate(self, outputs: Sequence[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
        """Return the trunk's gradients of some tensors times some factors; 0 where there is no path."""
        found = torch.autograd.grad(
            list(outputs), self.rows.trunk, list(factors), allow_unused=True, materialize_grads=True
        )
        return list(found)


def by_probe(probe: Probe, window: Sequence[Batch], present: Tensor) -> Losses:
    """Leave the gradient of a window in ``.grad``; see :func:`mtl_lightning.core.gradient.differentiate`."""
    module, seen = probe.module, Losses()
    for batch in window:
        probe.see(batch, seen, len(window))
    weighed = weigh(module, present, seen)
    with full_precision(module), module.no_gradient_sync():
        weights = weighed.weights[probe.here] / module.loss_scale()
        alpha = probe.task_weights(weights, weighed, present)
        heads = weights * alpha if probe.balancer.weight_heads else weights
        extra = torch.ones(1, device=weights.device, dtype=weights.dtype) / module.loss_scale()
        trunk = probe.trunk_gradients(weights, alpha)
        reduced = summed(module, [*trunk, *probe.rows.weighed_others(torch.cat([heads, extra]))])
        gradients = list(zip(probe.rows.trunk, reduced[: len(trunk)], strict=True))
        gradients += reached_others(probe.rows, reduced[len(trunk) :])
        module.manual_backward(put_gradients([*gradients, *weighed.learned]))
        seen.weights = weighed.weights.clone()
        seen.weights[probe.here] *= alpha.to(seen.weights.dtype)
    return seen
