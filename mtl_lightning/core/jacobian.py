"""One gradient per task: rows over the window and all processes, combined by the balancer, and put into ``.grad``.

Each task's loss is a separate scalar, so that its backward runs its own head and the trunk and nothing else. The rows
are summed over micro-batches and processes *before* anything non-linear is done with them, in one flat all-reduce of
P x D + H + h numbers (P tasks present, D shared parameters, H others in h tensors); in two where the balancer's weights
multiply the heads' gradients too. So the update is that of one process on the whole batch, for every way of combining.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.rows import GradientBalancer, GramianBalancer, PerParameter, WeighsHeads
from mtl_lightning.core.counts import count_labels
from mtl_lightning.core.losses import Losses, at_least_float32, aux_term, full_precision, window_losses
from mtl_lightning.core.rows import Rows, put_gradients, reach, reached_others
from mtl_lightning.core.splitting import split_window
from mtl_lightning.types import Batch, MtlLightningWarning

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule

_MEMORY: WeakKeyDictionary[MultiTaskModule, Tensor] = WeakKeyDictionary()
"""The rows' memory between updates, on the CPU: having it mapped in anew each time takes up to a tenth of a step."""


@dataclass
class Weighed:
    """What a loss balancer says of the losses of all processes.

    Attributes:
        losses: (T,).
        weights: (T,) the objective's derivatives by the losses.
        learned: the gradients of what the balancer itself learns.
    """

    losses: Tensor
    weights: Tensor
    learned: list[tuple[nn.Parameter, Tensor]]


def weigh(module: MultiTaskModule, present: Tensor, seen: Losses) -> Weighed:
    """Differentiate the balancer's objective at the losses of all processes, and note it in ``seen``."""
    balancer = module.balancer
    leaf = module.all_sum(seen.tasks).detach().clone().requires_grad_()
    learned = [parameter for parameter in balancer.parameters() if parameter.requires_grad]
    objective = balancer.objective(leaf, present)
    weights, *own = torch.autograd.grad(objective, [leaf, *learned], allow_unused=True, materialize_grads=True)
    seen.objective = objective.detach() + sum(module.all_sum(value) / module.world_size for value in seen.aux.values())
    return Weighed(leaf.detach(), weights, list(zip(learned, own, strict=True)))


def by_rows(module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], present: Tensor) -> Losses:
    """Differentiate each present task by itself; the auxiliary losses are one more term, left out of combining."""
    seen = Losses()
    here = [index for index, count in enumerate(counts.values()) if count]
    parts = [_rows(module, part, counts, here, seen) for part in split_window(window, module.balancer.parts)]
    if len(parts) > 1:
        seen.tasks = seen.tasks / len(parts)
        seen.aux = {name: value / len(parts) for name, value in seen.aux.items()}
    weighed = weigh(module, present, seen)
    with full_precision(module), module.no_gradient_sync():
        gradients, alpha = _gradients(module, parts, weighed, here, present)
        seen.weights = weighed.weights
        if alpha is not None:
            places = torch.tensor(here, device=alpha.device)
            seen.weights = seen.weights.index_put((places,), seen.weights[here] * alpha.to(seen.weights.dtype))
        module.manual_backward(put_gradients(gradients))
    return seen


def _rows(
    module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], here: Sequence[int], seen: Losses
) -> Rows:
    """Return this process's rows of the present tasks' scaled losses, and one of the auxiliary losses' sum if any."""
    parts, scale = len(window), module.loss_scale()
    if module.balancer.parts > 1:
        counts = {name: count or 1.0 for name, count in count_labels(module, window).items()}
    trunk, others = trained(module)
    reachable = [*reach(module, others).values()]
    rows: Rows | None = None
    for batch in window:
        losses, aux = window_losses(module, batch, counts)
        seen.add(torch.stack(losses), aux, parts)
        terms = [losses[index] * scale for index in here]
        if aux:
            terms.append(aux_term(module, aux, parts))
        if rows is None:
            rows = Rows(trunk, others, len(terms), _MEMORY.get(module) if module.balancer.parts == 1 else None)
        rows.add(terms, [*(reachable[index] for index in here), *([range(len(others))] if aux else [])])
    assert rows is not None  # a window holds at least one batch
    if rows.jacobian.is_cpu and module.balancer.parts == 1:
        _MEMORY[module] = rows.jacobian
    if isinstance(module.balancer, PerParameter):
        module.balancer.sizes = tuple(rows.sizes)
    return rows


def _gradients(
    module: MultiTaskModule, parts: Sequence[Rows], weighed: Weighed, here: Sequence[int], present: Tensor
) -> tuple[list[tuple[nn.Parameter, Tensor]], Tensor | None]:
    """Return every parameter's gradient, summed over processes, and the weights (P,) of methods that have them."""
    rows, scale = parts[0], module.loss_scale()
    weight_heads = isinstance(module.balancer, GradientBalancer) and module.balancer.weight_heads
    weights = weighed.weights[here] / scale
    extra = len(rows.jacobian) - len(here)  # 1 row of auxiliary losses, or none
    aux = weights.new_ones(extra) / scale
    together = [part.jacobian for part in parts]
    others = [] if weight_heads else _weighed_others(parts, torch.cat([weights, aux]))
    reduced = summed(module, [*together, *others])
    jacobians, others = reduced[: len(parts)], reduced[len(parts) :]
    trunk, alpha = _combine(module, jacobians, weights, weighed.losses[here], present)
    if extra:
        own = torch.stack([jacobian[len(here) :].sum(0) for jacobian in jacobians]).mean(0)
        trunk = trunk + (own / scale).to(trunk.dtype)
    if weight_heads:
        others = summed(module, _weighed_others(parts, torch.cat([weights if alpha is None else weights * alpha, aux])))
    return [*_pieces(rows, trunk), *reached_others(rows, others), *weighed.learned], alpha


def _weighed_others(parts: Sequence[Rows], weights: Tensor) -> list[Tensor]:
    """Return the means over parts of :meth:`Rows.weighed_others`."""
    found = [part.weighed_others(weights) for part in parts]
    return found[0] if len(found) == 1 else [torch.stack(same).mean(0) for same in zip(*found, strict=True)]


def _combine(
    module: MultiTaskModule, jacobians: Sequence[Tensor], weights: Tensor, losses: Tensor, present: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the trunk's gradient (D,) and, of methods that have them, the weights (P,) of the weighed rows."""
    balancer, number = module.balancer, len(weights)
    tasks = [at_least_float32(jacobian[:number]) for jacobian in jacobians]
    dtype = jacobians[0].dtype
    weights = weights.to(tasks[0].dtype)
    if not tasks[0].shape[1]:
        return jacobians[0].new_zeros(0), None
    if isinstance(balancer, GramianBalancer) and balancer.gramian:
        gramian = (tasks[0] @ tasks[0].T) * weights.unsqueeze(1) * weights
        if not is_finite(module, gramian):
            return (weights @ tasks[0]).to(dtype), None
        alpha = balancer.task_weights(gramian, losses.to(gramian.dtype), present)
        return ((alpha * weights) @ tasks[0]).to(dtype), alpha
    weighed = [rows * weights.unsqueeze(1) for rows in tasks]
    rows = weighed[0] if len(weighed) == 1 else torch.stack(weighed)
    if not isinstance(balancer, GradientBalancer) or not is_finite(module, rows):
        return weighed[0].sum(0).to(dtype), None
    combined = balancer.gradient(rows, losses.to(rows.dtype), present)
    combined = combined.to(dtype, copy=True)  # a method may return what it keeps
    if balancer.weight_heads and isinstance(balancer, WeighsHeads):
        return combined, balancer.head_weights(present, number)
    return combined, None


def warn_if_nothing_is_shared(module: MultiTaskModule) -> None:
    """Say that a balancer of gradients has nothing to combine."""
    if module.balancer.rows and not trained(module)[0]:
        warnings.warn(
            f"{type(module.balancer).__name__} combines gradients of shared parameters, and this network has none: "
            "every task's own parameters get the gradients of its own loss.",
            MtlLightningWarning,
            stacklevel=2,
        )


def is_finite(module: MultiTaskModule, values: Tensor) -> bool:
    """Whether a method may see these values: their plain sum is not finite either, which the policy then finds."""
    return module.on_nonfinite == "ignore" or bool(torch.isfinite(values).all())


def _pieces(rows: Rows, trunk: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    pairs = zip(rows.trunk, torch.split(trunk, rows.sizes), strict=True)
    return [(parameter, piece.view_as(parameter)) for parameter, piece in pairs]


def summed(module: MultiTaskModule, tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors summed over all processes, in one flat all-reduce."""
    if module.world_size == 1 or not tensors:
        return tensors
    flat = module.all_sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor).to(tensor.dtype) for piece, tensor in zip(pieces, tensors, strict=True)]


def trained(module: MultiTaskModule) -> tuple[list[Any], list[Any]]:
    """Return the trained parameters that are shared, and those of single tasks."""
    single = [module.roles.unknown, *module.roles.tasks.values()]
    return _trained_of(module.roles.shared.values()), _trained_of(p for named in single for p in named.values())


def _trained_of(parameters: Iterable[Any]) -> list[Any]:
    return [parameter for parameter in parameters if parameter.requires_grad]
