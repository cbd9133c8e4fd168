"""One gradient per task: rows over the window and all processes, combined by the balancer, and put into ``.grad``.

Each task's loss is a separate scalar, so that its backward runs its own head and the trunk and nothing else. The rows
are summed over micro-batches and processes *before* anything non-linear is done with them, in one flat all-reduce of
P x D + H + h numbers (P tasks present, D shared parameters, H others in h tensors); in two where the balancer's weights
multiply the heads' gradients too. So the update is that of one process on the whole batch, for every way of combining.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtl_lightning.core.counts import count_labels
from mtl_lightning.core.losses import Losses, at_least_float32, full_precision, window_losses
from mtl_lightning.core.splitting import split_window
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class Rows:
    """The gradients of P terms with respect to the trunk, as rows (P, D), and to the other parameters, term by term.

    Args:
        trunk: the shared parameters; a row is their gradients one after the other.
        others: the parameters of single tasks, which a few terms reach.
        terms: P.
    """

    def __init__(self, trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter], terms: int) -> None:
        self.trunk, self.others = list(trunk), list(others)
        self.sizes = [parameter.numel() for parameter in self.trunk]
        first = (self.trunk or self.others)[0]
        self.jacobian = torch.zeros(terms, sum(self.sizes), device=first.device, dtype=first.dtype)
        self.reached: list[dict[int, Tensor]] = [{} for _ in self.others]

    def add(self, terms: Sequence[Tensor]) -> None:
        """Add the gradients of one micro-batch's terms (); frees its graph."""
        parameters = [*self.trunk, *self.others]
        for row, term in enumerate(terms):
            if term.requires_grad:
                keep = any(later.requires_grad for later in terms[row + 1 :])
                self.add_row(row, torch.autograd.grad(term, parameters, retain_graph=keep, allow_unused=True))

    def add_row(self, row: int, gradients: Sequence[Tensor | None]) -> None:
        """Add one term's gradients with respect to the trunk's parameters and the others, None where it has none."""
        pieces = torch.split(self.jacobian[row], self.sizes)
        for piece, grad in zip(pieces, gradients, strict=False):
            if grad is not None:
                piece += grad.reshape(-1)
        self.add_others(row, gradients[len(self.trunk) :])

    def add_others(self, row: int, gradients: Sequence[Tensor | None]) -> None:
        """Add one term's gradients with respect to the other parameters."""
        for found, grad in zip(self.reached, gradients, strict=True):
            if grad is not None:
                found[row] = found[row] + grad if row in found else grad

    def weighed_others(self, weights: Tensor) -> list[Tensor]:
        """Return the other parameters' gradients, summed over terms with ``weights`` (P,), and which are reached (h,).

        Every process gives the same shapes, whichever terms it has seen.
        """
        sums = [
            torch.stack([weights[row].to(grad.dtype) * grad for row, grad in found.items()]).sum(0)
            if found
            else torch.zeros_like(parameter)
            for parameter, found in zip(self.others, self.reached, strict=True)
        ]
        return [*sums, self.jacobian.new_tensor([bool(found) for found in self.reached])]


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
    balancer, seen = module.balancer, Losses()
    here = [index for index, count in enumerate(counts.values()) if count]
    scale = module.loss_scale()
    splits = [_rows(module, part, counts, here, seen) for part in split_window(window, balancer.splits)]
    if len(splits) > 1:
        seen.tasks = seen.tasks / len(splits)
        seen.aux = {name: value / len(splits) for name, value in seen.aux.items()}
    weighed = weigh(module, present, seen)
    rows, extra = splits[0], len(splits[0].jacobian) - len(here)
    weights = weighed.weights[here] / scale
    with full_precision(module), module.no_gradient_sync():
        with_aux = torch.cat([weights, weights.new_ones(extra) / scale])
        together = [split.jacobian for split in splits]
        others = [] if balancer.weight_heads else _mean([split.weighed_others(with_aux) for split in splits])
        reduced = summed(module, [*together, *others])
        jacobians, others = reduced[: len(splits)], reduced[len(splits) :]
        trunk, alpha = _combine(module, jacobians, weights, weighed.losses[here], present)
        if extra:
            own = torch.stack([jacobian[len(here) :].sum(0) for jacobian in jacobians]).mean(0)
            trunk = trunk + (own / scale).to(trunk.dtype)
        if alpha is not None and balancer.weight_heads:
            with_aux = torch.cat([weights * alpha, weights.new_ones(extra) / scale])
        if balancer.weight_heads:
            others = summed(module, _mean([split.weighed_others(with_aux) for split in splits]))
        seen.weights = (
            weighed.weights
            if alpha is None
            else weighed.weights.index_put(
                (torch.tensor(here, device=alpha.device),), weighed.weights[here] * alpha.to(weighed.weights.dtype)
            )
        )
        gradients = [*_pieces(rows, trunk), *reached_others(rows, others), *weighed.learned]
        module.manual_backward(put_gradients(gradients))
    return seen


def _rows(
    module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float], here: Sequence[int], seen: Losses
) -> Rows:
    """Return this process's rows of the present tasks' scaled losses, and one of the auxiliary losses' sum if any."""
    parts, scale = len(window), module.loss_scale()
    if module.balancer.splits > 1:
        counts = {name: count or 1.0 for name, count in count_labels(module, window).items()}
    rows: Rows | None = None
    for batch in window:
        losses, aux = window_losses(module, batch, counts)
        seen.add(torch.stack(losses), aux, parts)
        terms = [losses[index] * scale for index in here]
        if aux:
            terms.append(torch.stack(list(aux.values())).sum() * (scale / (parts * module.world_size)))
        if rows is None:
            rows = Rows(*trained(module), terms=len(terms))
        rows.add(terms)
    assert rows is not None  # a window holds at least one batch
    module.balancer.sizes = tuple(rows.sizes)
    return rows


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
    if balancer.gramian:
        gramian = (tasks[0] @ tasks[0].T) * weights.unsqueeze(1) * weights
        if not is_finite(module, gramian):
            return (weights @ tasks[0]).to(dtype), None
        alpha = balancer.task_weights(gramian, losses.to(gramian.dtype), present)
        return ((alpha * weights) @ tasks[0]).to(dtype), alpha
    weighed = [rows * weights.unsqueeze(1) for rows in tasks]
    rows = weighed[0] if len(weighed) == 1 else torch.stack(weighed)
    if balancer.rows and not is_finite(module, rows):
        return weighed[0].sum(0).to(dtype), None
    return balancer.gradient(rows, losses.to(rows.dtype), present).to(dtype), None


def is_finite(module: MultiTaskModule, values: Tensor) -> bool:
    """Whether a method may see these values: their plain sum is not finite either, which the policy then finds."""
    return module.on_nonfinite == "ignore" or bool(torch.isfinite(values).all())


def _mean(splits: list[list[Tensor]]) -> list[Tensor]:
    """Return the means over splits of lists of tensors."""
    return splits[0] if len(splits) == 1 else [torch.stack(parts).mean(0) for parts in zip(*splits, strict=True)]


def _pieces(rows: Rows, trunk: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    pairs = zip(rows.trunk, torch.split(trunk, rows.sizes), strict=True)
    return [(parameter, piece.view_as(parameter)) for parameter, piece in pairs]


def reached_others(rows: Rows, reduced: Sequence[Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the gradients of the other parameters that some term reaches on some process.

    Args:
        rows: whose ``others`` these are.
        reduced: what :meth:`Rows.weighed_others` gave, summed over processes.
    """
    *gradients, anywhere = reduced
    triples = zip(rows.others, gradients, anywhere.tolist(), strict=True)
    return [(parameter, gradient) for parameter, gradient, found in triples if found]


def summed(module: MultiTaskModule, tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors summed over all processes, in one flat all-reduce."""
    if module.world_size == 1 or not tensors:
        return tensors
    flat = module.all_sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor).to(tensor.dtype) for piece, tensor in zip(pieces, tensors, strict=True)]


class _Given(torch.autograd.Function):
    """A 0 () whose backward gives each of some tensors the gradient that was handed in with it."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        """Keep the gradients."""
        ctx.gradients = gradients
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        """Return the gradients times the loss scale, if there is one."""
        gradients, ctx.gradients = ctx.gradients, []
        return None, *(gradient * factor.to(gradient.dtype) for gradient in gradients)


def put_gradients(gradients: Sequence[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """Return a scalar () whose backward leaves exactly these gradients.

    So that whatever surrounds a backward (its hooks, a gradient scaler) sees one, as in any other update.
    """
    value: Tensor = _Given.apply([gradient for _, gradient in gradients], *(parameter for parameter, _ in gradients))  # type: ignore[no-untyped-call]
    return value


def trained(module: MultiTaskModule) -> tuple[list[Any], list[Any]]:
    """Return the trained parameters that are shared, and those of single tasks."""
    single = [module.roles.unknown, *module.roles.tasks.values()]
    return _trained_of(module.roles.shared.values()), _trained_of(p for named in single for p in named.values())


def _trained_of(parameters: Iterable[Any]) -> list[Any]:
    return [parameter for parameter in parameters if parameter.requires_grad]
