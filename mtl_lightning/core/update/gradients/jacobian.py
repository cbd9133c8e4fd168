"""Gradients of several terms: taken term by term, kept as rows, and handed to whatever surrounds a backward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.on_device import on_device
from mtl_lightning.core.update.gradients.inner_products import Unwritten, unwritten
from mtl_lightning.core.update.gradients.linear_layers import LinearLayer, LinearLayers, linear_layers


@dataclass
class RowMemory:
    """What is kept between updates.

    Attributes:
        rows: (P, D) memory for rows, on the CPU, where having it mapped in anew each time takes up to a tenth of a
            step; None before the first update and after the last.
        apart: whether each task's loss, apart from its features, was found to reach no shared parameter; by task.
        in_place_heads: whether a head changes its features in place, which it may not once they are cut off.
    """

    rows: Tensor | None = None
    apart: dict[str, bool] = field(default_factory=dict)
    in_place_heads: bool = False


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

        Every process gives the same shapes, whichever terms it has met; one that is alone leaves out the last.
        """
        by_row = weights.unbind()
        pairs = [(grad, by_row[row]) for found in self.reached for row, grad in found.items()]
        if pairs:  # in one call, and none in place: two of them may be one tensor
            weighed = torch._foreach_mul([grad for grad, _ in pairs], [weight for _, weight in pairs])
            pieces = iter(value.to(grad.dtype) for value, (grad, _) in zip(weighed, pairs, strict=True))
        sums = []
        for parameter, found in zip(self.parameters, self.reached, strict=True):
            parts = [next(pieces) for _ in found] or [torch.zeros_like(parameter)]
            sums.append(parts[0] if len(parts) == 1 else torch.stack(parts).sum(0))
        if self._alone:
            return sums
        return [*sums, on_device([bool(found) for found in self.reached], weights.device, weights.dtype)]

    def reached_anywhere(self, reduced: Sequence[Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the gradients of the parameters that some term reaches on some process.

        Args:
            reduced: what :meth:`weighted` gave, summed over processes.
        """
        gradients, known = (reduced, self.reached) if self._alone else (reduced[:-1], reduced[-1].tolist())
        triples = zip(self.parameters, gradients, known, strict=True)
        return [(parameter, gradient) for parameter, gradient, found in triples if found]


@dataclass(frozen=True)
class Term:
    """What a row is the gradient of.

    Attributes:
        output: a scalar (), or a tensor that is sent ``factor`` back from; of one that needs no gradient, that is 0.
        reach: the indices of the parameters of single tasks that it may depend on. To ask every term about all of them
            would take time that grows with the square of the number of tasks.
        factor: of the shape of ``output``; 1 by default.
    """

    output: Tensor
    reach: Sequence[int] = ()
    factor: Tensor | None = None


class Jacobian:
    """The gradients of P terms with respect to the trunk, as rows (P, D).

    Args:
        trunk: the shared parameters; a row is their gradients one after the other.
        task_gradients: takes what the terms give the parameters of single tasks.
        terms: P.
        memory: what to write the rows into, if it fits; else they get new memory, which it keeps.
        in_place: whether products may be written straight into the rows.
        products_only: whether nothing is asked of the rows but their inner products and a weighted sum, of one
            micro-batch alone; then the rows lack what is had for less without being written.

    Attributes:
        rows: (P, D), or fewer columns, without the parameters that ``unwritten`` stands for.
        unwritten: linear layers whose gradients are not written, by the place of the weight.
        sizes: the numbers of each parameter of the trunk.
    """

    def __init__(
        self,
        trunk: Sequence[nn.Parameter],
        task_gradients: TaskGradients,
        terms: int,
        memory: RowMemory,
        in_place: bool = False,
        products_only: bool = False,
    ) -> None:
        self.trunk, self.task_gradients, self._in_place = list(trunk), task_gradients, in_place
        self.sizes = [parameter.numel() for parameter in self.trunk]
        self.unwritten: dict[int, Unwritten] = {}
        self._first = (self.trunk or task_gradients.parameters)[0]
        self._terms, self._memory, self._products_only = terms, memory, in_place and products_only
        self._begun = False  # whether there is anything in the rows to add to
        if not self._products_only:
            self._lay_out()

    def _lay_out(self) -> None:
        """Take memory for the rows of what is written."""
        apart = {place for each in self.unwritten.values() for place in (each.layer.weight, each.layer.bias)}
        self.written = [place for place in range(len(self.trunk)) if place not in apart]
        sizes = [self.sizes[place] for place in self.written]
        shape, rows, first = (self._terms, sum(sizes)), self._memory.rows, self._first
        if rows is None or (rows.shape, rows.dtype, rows.device) != (shape, first.dtype, first.device):
            rows = torch.empty(shape, dtype=first.dtype, device=first.device)
        self.rows = rows
        self._memory.rows = rows if rows.is_cpu else None
        split = zip(self.written, torch.split(rows, sizes, dim=1), strict=True) if sizes else ()
        self._pieces = {place: piece.view(self._terms, *self.trunk[place].shape).unbind() for place, piece in split}

    def by_place(self, combined: Tensor, weights: Tensor) -> dict[int, Tensor]:
        """Return the gradient of each parameter of the trunk by its place.

        Args:
            combined: that of those in the rows, one after the other.
            weights: (P,) what the terms of the others are weighted with.
        """
        sizes = [self.sizes[place] for place in self.written]
        split = zip(self.written, torch.split(combined, sizes), strict=True) if sizes else ()
        found = {place: piece.view_as(self.trunk[place]) for place, piece in split}
        for each in self.unwritten.values():
            found.update(each.combined(weights))
        return found

    @torch.no_grad()
    def add(self, terms: list[Term]) -> None:
        """Add the gradients of one micro-batch's P terms; empties the list, and frees the graph."""
        last = max((row for row, term in enumerate(terms) if term.output.requires_grad), default=0)
        outputs = {id(term.output): term.output for term in terms}
        graph = LinearLayers([], 1)
        if self._in_place:
            graph = linear_layers([*outputs.values()], self.trunk, self._first.dtype)
        layers = graph.layers
        if self._products_only:
            if self._begun:
                raise RuntimeError("rows that are not written cannot be added to: expected one micro-batch")
            self.unwritten = unwritten(layers, [parameter.shape for parameter in self.trunk], self._terms)
            self._lay_out()
        known = {place for layer in layers for place in (layer.weight, layer.bias)}
        others = [place for place in range(len(self.trunk)) if place not in known]
        towards: list[Any] = [*(layer.outputs for layer in layers), *(self.trunk[place] for place in others)]
        while terms:
            row, term = self._terms - len(terms), terms.pop(0)  # so that its memory is free at once
            found: tuple[Tensor | None, ...] = (None,) * (len(towards) + len(term.reach))
            if graph.together > 1 and (others_like := _like(term, terms[: graph.together - 1])):
                del terms[: len(others_like)]
                self._add_together(row, [term, *others_like], layers, retain=row + len(others_like) < last)
                continue
            if term.output.requires_grad:
                singles = [self.task_gradients.parameters[index] for index in term.reach]
                found = torch.autograd.grad(
                    term.output, [*towards, *singles], term.factor, retain_graph=row < last, allow_unused=True
                )
            for layer, gradient in zip(layers, found, strict=False):
                if layer.weight in self.unwritten:
                    self._keep(layer, None if gradient is None else gradient.unsqueeze(0), 1)
                else:
                    self._write(row, layer, gradient)
            for place, gradient in zip(others, found[len(layers) : len(towards)], strict=True):
                self._add(self._pieces[place][row], gradient)
            self.task_gradients.add(row, found[len(towards) :], term.reach)
        self._begun = True

    def _add_together(self, row: int, terms: Sequence[Term], layers: Sequence[LinearLayer], *, retain: bool) -> None:
        """Add rows from ``row`` on, of terms that start from one tensor, with one backward for all of them."""
        factors = torch.stack([term.factor for term in terms if term.factor is not None])
        edges = [layer.outputs for layer in layers]
        found: Sequence[Tensor | None] = torch.autograd.grad(
            terms[0].output, edges, factors, retain_graph=retain, allow_unused=True, is_grads_batched=True
        )
        for layer, gradients in zip(layers, found, strict=True):
            if layer.weight in self.unwritten:
                self._keep(layer, gradients, len(terms))
                continue
            for place in range(len(terms)):
                self._write(row + place, layer, None if gradients is None else gradients[place])

    def _keep(self, layer: LinearLayer, gradients: Tensor | None, terms: int) -> None:
        self.unwritten[layer.weight].add(gradients, len(self.trunk[layer.weight]), terms)

    def _write(self, row: int, layer: LinearLayer, gradient: Tensor | None) -> None:
        weight = self._pieces[layer.weight][row]
        bias = None if layer.bias is None else self._pieces[layer.bias][row]
        if gradient is not None:
            layer.write(gradient, weight, bias, add=self._begun)
            return
        for piece in (weight, bias):
            if piece is not None:
                self._add(piece, None)

    def _add(self, piece: Tensor, gradient: Tensor | None) -> None:
        """Write a term's gradient with respect to a parameter of the trunk, None where it has none, or add it."""
        if gradient is None:
            if not self._begun:
                piece.zero_()
        elif self._begun:
            piece += gradient
        else:
            piece.copy_(gradient)


def _like(term: Term, others: Sequence[Term]) -> list[Term]:
    """Return the first of some terms, as long as they start from the same tensor as one, and reach the trunk alone."""
    if term.factor is None or term.reach or not term.output.requires_grad:
        return []
    return [
        *takewhile(lambda other: other.output is term.output and other.factor is not None and not other.reach, others)
    ]


def anyones(network: Network, parameters: Sequence[nn.Parameter]) -> list[int]:
    """Return which of the trained parameters of single tasks any task's loss may depend on, as indices.

    Which losses reach an architecture's own ``task_parameters()`` only the graph of a forward knows: every task's may.
    """
    roles, inner = network.roles, network.architecture.task_parameters()
    anyone = [*roles.unknown.values(), *(parameter for own in inner.values() for parameter in own)]
    if not anyone:
        return []
    places = {id(parameter): index for index, parameter in enumerate(parameters)}
    return sorted({places[id(parameter)] for parameter in anyone if id(parameter) in places})


def reach(network: Network, parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """Return which of the trained parameters of single tasks each task's loss may depend on, as indices.

    A head serves its own task, and through open edges those that read it.
    """
    places = {id(parameter): index for index, parameter in enumerate(parameters)}
    everywhere, roles = set(anyones(network, parameters)), network.roles
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
