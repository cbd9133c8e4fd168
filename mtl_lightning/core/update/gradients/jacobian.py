"""Gradients of several terms: taken term by term, kept as rows, and handed to whatever surrounds a backward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.core.network.network import Network


@dataclass
class RowMemory:
    """Memory for rows between updates, on the CPU: having it mapped in anew each time takes up to a tenth of a step.

    Attributes:
        rows: (P, D), or None before the first update and after the last.
    """

    rows: Tensor | None = None


class TaskGradients:
    """The gradients of P terms with respect to the parameters of single tasks, which a few terms reach each.

    Args:
        parameters: the parameters of single tasks.
        alone: whether there is one process only, which knows what is reached without a look at what was reduced.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], alone: bool = False) -> None:
        self.parameters, self._alone = list(parameters), alone
        self.reached: list[dict[int, Tensor]] = [{} for _ in self.parameters]

    def add(self, row: int, gradients: Sequence[Tensor | None], indices: Iterable[int]) -> None:
        """Add one term's gradients with respect to the parameters with these indices."""
        for index, grad in zip(indices, gradients, strict=True):
            if grad is not None:
                found = self.reached[index]
                found[row] = found[row] + grad if row in found else grad

    def weighted(self, weights: Tensor) -> list[Tensor]:
        """Return each parameter's gradient, summed over terms with ``weights`` (P,), and which are reached (h,).

        Every process gives the same shapes, whichever terms it has met.
        """
        by_row, sums = weights.unbind(), []
        for parameter, found in zip(self.parameters, self.reached, strict=True):
            parts = [grad * by_row[row].to(grad.dtype) for row, grad in found.items()] or [torch.zeros_like(parameter)]
            sums.append(parts[0] if len(parts) == 1 else torch.stack(parts).sum(0))
        return [*sums, weights.new_tensor([bool(found) for found in self.reached])]

    def reached_anywhere(self, reduced: Sequence[Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the gradients of the parameters that some term reaches on some process.

        Args:
            reduced: what :meth:`weighted` gave, summed over processes.
        """
        *gradients, anywhere = reduced
        known: Sequence[object] = self.reached if self._alone else anywhere.tolist()
        triples = zip(self.parameters, gradients, known, strict=True)
        return [(parameter, gradient) for parameter, gradient, found in triples if found]


class Jacobian:
    """The gradients of P terms with respect to the trunk, as rows (P, D).

    Args:
        trunk: the shared parameters; a row is their gradients one after the other.
        task_gradients: takes what the terms give the parameters of single tasks.
        terms: P.
        memory: what to write the rows into, if it fits; else they get new memory, which it keeps.
    """

    def __init__(
        self,
        trunk: Sequence[nn.Parameter],
        task_gradients: TaskGradients,
        terms: int,
        memory: RowMemory,
    ) -> None:
        self.trunk, self.task_gradients = list(trunk), task_gradients
        self.sizes = [parameter.numel() for parameter in self.trunk]
        first = (self.trunk or task_gradients.parameters)[0]
        shape, rows = (terms, sum(self.sizes)), memory.rows
        if rows is None or (rows.shape, rows.dtype, rows.device) != (shape, first.dtype, first.device):
            rows = torch.empty(shape, dtype=first.dtype, device=first.device)
        self.rows = rows
        memory.rows = rows if rows.is_cpu else None
        self._begun = False  # whether there is anything in the rows to add to

    def add(self, terms: Sequence[Tensor], reach: Sequence[Sequence[int]]) -> None:
        """Add the gradients of one micro-batch's terms (); frees its graph.

        Args:
            terms: P of them.
            reach: the indices of the parameters of single tasks that each term may depend on. To ask every term about
                all of them would take time that grows with the square of the number of tasks.
        """
        last = max((row for row, term in enumerate(terms) if term.requires_grad), default=0)
        for row, (term, indices) in enumerate(zip(terms, reach, strict=True)):
            found: tuple[Tensor | None, ...] = (None,) * (len(self.trunk) + len(indices))
            if term.requires_grad:
                parameters = [*self.trunk, *(self.task_gradients.parameters[index] for index in indices)]
                found = torch.autograd.grad(term, parameters, retain_graph=row < last, allow_unused=True)
            self._add_row(row, found[: len(self.trunk)])
            self.task_gradients.add(row, found[len(self.trunk) :], indices)
        self._begun = True

    def _add_row(self, row: int, gradients: Sequence[Tensor | None]) -> None:
        """Write one term's gradients with respect to the trunk's parameters, None where it has none, or add them."""
        for piece, grad in zip(torch.split(self.rows[row], self.sizes), gradients, strict=True):
            if grad is None:
                if not self._begun:
                    piece.zero_()
            elif self._begun:
                piece += grad.reshape(-1)
            else:
                piece.copy_(grad.reshape(-1))


def reach(network: Network, parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """Return which of the trained parameters of single tasks each task's loss may depend on, as indices.

    A head serves its own task, and through open edges those that read it. Which losses reach an architecture's own
    ``task_parameters()`` only the graph of a forward knows: every task's may.
    """
    places = {id(parameter): index for index, parameter in enumerate(parameters)}
    roles, inner = network.roles, network.architecture.task_parameters()
    anyone = [*roles.unknown.values(), *(parameter for own in inner.values() for parameter in own)]
    everywhere = {places[id(parameter)] for parameter in anyone if id(parameter) in places}
    found: dict[str, set[int]] = {}
    for task in network.graph.order:  # those that are read come first
        own = {places[id(parameter)] for parameter in roles.tasks[task].values() if id(parameter) in places}
        read = [found[name] for name, edge in network.graph.edges[task].items() if not edge.stop_gradient]
        found[task] = everywhere.union(own, *read)
    return [sorted(found[task]) for task in network.tasks]


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
        if factor.is_cpu and factor.item() == 1:  # nowhere else is looking cheaper than multiplying
            return None, *gradients
        return None, *(gradient * factor.to(gradient.dtype) for gradient in gradients)


def put_gradients(gradients: list[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """Return a scalar () whose backward leaves exactly these gradients; empties the list.

    So that whatever surrounds a backward (its hooks, a gradient scaler) sees one, as in any other update. Tensors that
    nobody else holds become the gradients themselves, others are copied.
    """
    parameters, values = [parameter for parameter, _ in gradients], [gradient for _, gradient in gradients]
    gradients.clear()
    value: Tensor = _Given.apply(values, *parameters)  # type: ignore[no-untyped-call]
    return value
