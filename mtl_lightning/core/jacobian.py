"""One gradient per task: rows over the window and all processes, weighed, combined, and put into ``.grad``.

Each task's loss is a separate scalar, so that its backward runs its own head and the trunk and nothing else. The rows
are summed over micro-batches and processes *before* anything non-linear is done with them, in one flat all-reduce of
P x D + H + h numbers (P tasks present, D shared parameters, H others in h tensors). So the update is that of one
process on the whole batch, for every way of combining them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Rows:
    """The gradients of P terms with respect to the trunk, as rows (P, D), and to the other parameters, term by term.

    Args:
        trunk: the shared parameters; a row is their gradients one after the other.
        others: the parameters of single tasks, which a few terms reach.
        terms: P.
    """

    def __init__(self, trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter], terms: int) -> None:
        self.trunk, self.others = list(trunk), list(others)
        self.sizes = [parameter.numel() for parameter in [*trunk, *others]]
        first = (self.trunk or self.others)[0]
        self.jacobian = torch.zeros(terms, sum(self.sizes[: len(self.trunk)]), device=first.device, dtype=first.dtype)
        self.reached: list[dict[int, Tensor]] = [{} for _ in self.others]

    def add(self, terms: Sequence[Tensor]) -> None:
        """Add the gradients of one micro-batch's terms (); frees its graph."""
        parameters = [*self.trunk, *self.others]
        for row, term in enumerate(terms):
            if not term.requires_grad:
                continue
            keep = row + 1 < len(terms)
            grads = torch.autograd.grad(term, parameters, retain_graph=keep, allow_unused=True)
            pieces = torch.split(self.jacobian[row], self.sizes[: len(self.trunk)])
            for piece, grad in zip(pieces, grads, strict=False):
                if grad is not None:
                    piece += grad.reshape(-1)
            for found, grad in zip(self.reached, grads[len(self.trunk) :], strict=True):
                if grad is not None:
                    found[row] = found[row] + grad if row in found else grad

    def gradient(
        self, weights: Tensor, combine: Callable[[Tensor], Tensor], all_sum: Callable[[Tensor], Tensor]
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the gradient of each parameter that a term reaches, over all processes.

        Args:
            weights: (P,) of the terms: what multiplies each row.
            combine: maps the weighed rows (P, D) to the trunk's gradient (D,).
            all_sum: sums a vector over all processes.
        """
        others = [
            torch.stack([weights[row].to(grad.dtype) * grad for row, grad in found.items()]).sum(0)
            if found
            else torch.zeros_like(parameter)
            for parameter, found in zip(self.others, self.reached, strict=True)
        ]
        here = self.jacobian.new_tensor([bool(found) for found in self.reached])  # another process may reach others
        flat = all_sum(torch.cat([self.jacobian.reshape(-1), *(grad.reshape(-1) for grad in others), here]))
        flat, anywhere = flat[: flat.numel() - len(here)], flat[flat.numel() - len(here) :].tolist()
        rows = flat[: self.jacobian.numel()].view_as(self.jacobian)
        trunk = combine(rows * weights.to(rows.dtype).unsqueeze(1)) if self.trunk else flat[:0]
        pieces = torch.split(torch.cat([trunk, flat[rows.numel() :]]), self.sizes)
        reached = [True] * len(self.trunk) + [number > 0 for number in anywhere]
        pairs = zip([*self.trunk, *self.others], pieces, reached, strict=True)
        return [(parameter, piece.view_as(parameter)) for parameter, piece, found in pairs if found]


def put_gradients(gradients: Sequence[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """Return a scalar () whose backward leaves exactly these gradients.

    So that whatever surrounds a backward (its hooks, a gradient scaler) sees one, as in any other update.
    """
    return torch.stack([(parameter * gradient).sum() for parameter, gradient in gradients]).sum()
