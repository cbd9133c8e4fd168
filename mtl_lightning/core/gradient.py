"""The gradient of a window: losses as means over the whole window and all processes, differentiated once per need.

Three ways, which the balancer's kind decides. An affine objective is differentiated micro-batch by micro-batch, which
adds up. Any other objective is differentiated at the exact losses of all processes. A balancer that needs one gradient
per task gets rows: see :mod:`mtl_lightning.core.jacobian`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from mtl_lightning.core.batches import in_order, kindred, targets_of, weight_of
from mtl_lightning.core.jacobian import Rows, put_gradients
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


_NOTHING = torch.zeros(())  # before the first micro-batch


@dataclass
class Losses:
    """What one process saw of a window, detached.

    Attributes:
        tasks: its part of the tasks' mean losses (T,); the sum over processes is the mean over all.
        objective: its objective (); the mean over processes is that of all.
        weights: d objective / d losses (T,), what each task's gradient is multiplied by; None if no loss has one.
        aux: auxiliary losses (), summed over the window's micro-batches and divided by their number.
    """

    tasks: Tensor = field(default_factory=lambda: _NOTHING)
    objective: Tensor = field(default_factory=lambda: _NOTHING)
    weights: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)

    def add(self, tasks: Tensor, aux: Mapping[str, Tensor], parts: int) -> None:
        """Add one of ``parts`` micro-batches."""
        self.tasks = tasks.detach() if self.tasks is _NOTHING else self.tasks + tasks.detach()
        for name, value in aux.items():
            share = value.detach() / parts
            self.aux[name] = self.aux[name] + share if name in self.aux else share


def differentiate(
    module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], present: Tensor
) -> Losses:
    """Leave the gradient of a window, over all processes, in ``.grad``.

    Args:
        module: the module.
        window: the micro-batches of one update.
        counts: the labelled elements of each task, over the window and all processes.
        present: (T,) bool, whether there are any.
    """
    seen = Losses()
    if module.balancer.wants_rows(len(window)):
        _by_rows(module, window, counts, present, seen)
    else:
        _by_objective(module, window, counts, present, seen)
    return seen


def _by_objective(
    module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], present: Tensor, seen: Losses
) -> None:
    parts, world = len(window), module.world_size
    for index, batch in enumerate(window):
        vector, aux = _window_vector(module, batch, counts)
        seen.add(vector, aux, parts)
        if parts * world > 1:
            vector = vector * (parts * world)  # processes are averaged, and so are micro-batches below
        if not module.balancer.affine and world > 1:
            vector = vector + (module.all_sum(seen.tasks) - vector).detach()  # the value of all, the path of this one
        if vector.requires_grad:
            vector.retain_grad()
        objective = module.balancer.objective(vector, present)
        if aux:
            objective = objective + sum(aux.values())
        if parts > 1:
            objective = objective / parts
        if isinstance(module.trainer.strategy, DDPStrategy) and not all(name in targets_of(batch) for name in counts):
            objective = objective + _reaching_all(module)
        with nullcontext() if index == parts - 1 else module.no_gradient_sync():
            module.manual_backward(objective)
        seen.objective = objective.detach() if index == 0 else seen.objective + objective.detach()
        if vector.grad is not None:
            plain = parts == 1 and module.scaler is None
            seen.weights = vector.grad if plain else vector.grad * parts / module.loss_scale()


def _reaching_all(module: MultiTaskModule) -> Tensor:
    """Return a 0 () that reaches every trained parameter: DDP waits for a gradient of each, absent tasks' too."""
    return torch.stack([p.reshape(-1)[:0].sum().float() for p in module.parameters() if p.requires_grad]).sum()


def _by_rows(
    module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], present: Tensor, seen: Losses
) -> None:
    """Differentiate each present task by itself; the auxiliary losses are one more term, left out of combining."""
    balancer, parts = module.balancer, len(window)
    here = [index for index, count in enumerate(counts.values()) if count]
    scale = module.loss_scale()
    rows: Rows | None = None
    for batch in window:
        losses, aux = window_losses(module, batch, counts)
        seen.add(torch.stack(losses), aux, parts)
        terms = [losses[index] * scale for index in here]
        if aux:
            terms.append(torch.stack(list(aux.values())).sum() * (scale / (parts * module.world_size)))
        if rows is None:
            rows = Rows(*_trained(module), terms=len(terms))
        rows.add(terms)
    assert rows is not None  # a window holds at least one batch
    leaf = module.all_sum(seen.tasks).detach().clone().requires_grad_()
    learned = [parameter for parameter in balancer.parameters() if parameter.requires_grad]
    seen.objective = balancer.objective(leaf, present)
    weights, *own = torch.autograd.grad(seen.objective, [leaf, *learned], allow_unused=True, materialize_grads=True)
    seen.weights = weights
    seen.objective = seen.objective.detach() + sum(module.all_sum(v) / module.world_size for v in seen.aux.values())
    weights = torch.cat([weights[here], weights.new_ones(len(rows.jacobian) - len(here))]) / scale

    def combine(jacobian: Tensor) -> Tensor:
        tasks = jacobian[: len(here)]
        # no method is to meet inf or nan: their sum is not finite either, which the non-finite policy then finds
        finite = module.on_nonfinite == "ignore" or bool(torch.isfinite(tasks).all())
        trunk = balancer.gradient(tasks, leaf.detach()[here], present) if finite else tasks.sum(0)
        return trunk + jacobian[len(here) :].sum(0)

    with full_precision(module), module.no_gradient_sync():
        gradients = rows.gradient(weights, combine, module.all_sum)
        module.manual_backward(put_gradients([*gradients, *zip(learned, own, strict=True)]))


def _trained(module: MultiTaskModule) -> tuple[list[Any], list[Any]]:
    """Return the trained parameters that are shared, and those of single tasks."""
    single = [module.roles.unknown, *module.roles.tasks.values()]
    return _trained_of(module.roles.shared.values()), _trained_of(p for named in single for p in named.values())


def _trained_of(parameters: Iterable[Any]) -> list[Any]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def window_losses(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Forward one micro-batch; return its part of each task's mean loss (), as separate scalars, and the aux losses."""
    names, outputs, aux = _forward(module, batch, counts)
    targets = targets_of(batch)
    with full_precision(module):
        zero = torch.zeros((), device=module.device)
        losses = [
            task.loss(outputs[name], targets[name], weight_of(batch, name)) / counts[name] if name in names else zero
            for name, task in module.tasks.items()
        ]
        return losses, {name: at_least_float32(value) for name, value in aux.items()}


def _window_vector(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Like :func:`window_losses`, but as one vector (T,), with the rows of kin tasks put together."""
    names, outputs, aux = _forward(module, batch, counts)
    targets, order, parts = targets_of(batch), [], []
    with full_precision(module):
        for kin in kindred(batch, names, module.tasks):
            task, first = module.tasks[kin[0]], kin[0]
            if len(kin) == 1:
                parts.append(task.loss(outputs[first], targets[first], weight_of(batch, first)).reshape(1))
            else:
                parts.append(task.loss_together([outputs[name] for name in kin], [targets[name] for name in kin]))
            order += kin
        if not order:
            return torch.zeros(len(counts), device=module.device), {}
        sums = in_order(torch.cat(parts) if len(parts) > 1 else parts[0], order, [*counts])
        means = sums / sums.new_tensor([count or 1.0 for count in counts.values()])
        return means, {name: at_least_float32(value) for name, value in aux.items()}


def _forward(
    module: MultiTaskModule, batch: Batch, counts: Mapping[str, float]
) -> tuple[list[str], dict[str, Tensor], Mapping[str, Tensor]]:
    """Run the tasks that a micro-batch has targets of; return their names, all outputs and auxiliary losses.

    A task that is present anywhere is run wherever its target is given, labelled or not, so that every process
    builds the same graph.
    """
    targets = targets_of(batch)
    names = [name for name in counts if counts[name] > 0 and name in targets]
    outputs, aux = module.run(batch["inputs"], names)
    return names, outputs, aux


def full_precision(module: MultiTaskModule) -> AbstractContextManager[Any]:
    """Switch autocast off: losses and what follows from them are never below float32."""
    return torch.autocast(module.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, any other as it is."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
