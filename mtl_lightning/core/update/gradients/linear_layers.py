"""The linear layers of a graph: the gradients of their weights are products that can be written where they belong.

Autograd gives every weight's gradient memory of its own, from which it would have to be copied into a row. What a
linear layer y = x W' + b needs is the gradient g (B, out) of its outputs alone: that of W is g' x, which a product
writes straight into the row, or adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

_INPUTS = {"AddmmBackward0": ("_saved_mat1", 1, 2), "MmBackward0": ("_saved_self", 0, 1)}
"""By a node's type: what it calls the layer's inputs, and the places of inputs and weight among what it came from."""
_BATCHED = frozenset(
    [
        *("AddmmBackward0", "MmBackward0", "TBackward0", "AccumulateGrad"),
        *("ReluBackward0", "SigmoidBackward0", "MulBackward0", "DivBackward0", "AddBackward0", "SubBackward0"),
        *("ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0"),
    ]
)
"""Nodes that go back from several gradients at once as fast as from one after the other, or faster."""
_TOGETHER = 1 << 17  # numbers of a layer's gradients that go back at a time: 0.5 MB, half a core's cache
_TOGETHER_ELSEWHERE = 1 << 24  # likewise on a GPU, where each launch counts


@dataclass(frozen=True)
class LinearLayer:
    """One use of a linear layer in a graph.

    Attributes:
        outputs: where autograd finds the gradient of its outputs (B, out).
        inputs: (B, in).
        weight: the place of its weight (out, in) among the parameters that were asked about.
        bias: that of its bias (out,); None if it has none, or one that something else uses, too.
    """

    outputs: GradientEdge
    inputs: Tensor
    weight: int
    bias: int | None

    def write(self, gradient: Tensor, weight: Tensor, bias: Tensor | None, *, add: bool) -> None:
        """Write the gradients of weight and bias, or add them to what is there.

        Args:
            gradient: (B, out) that of the outputs.
            weight: (out, in).
            bias: (out,), if there is a bias.
            add: whether to add.
        """
        if add:
            weight.addmm_(gradient.t(), self.inputs)
        else:
            torch.mm(gradient.t(), self.inputs, out=weight)
        if bias is not None and add:
            bias += gradient.sum(0)
        elif bias is not None:
            torch.sum(gradient, 0, out=bias)


@dataclass(frozen=True)
class LinearLayers:
    """The linear layers of a graph.

    Attributes:
        layers: in the order in which a backward comes to them.
        together: from how many gradients a backward should go back at once; 1 where that would not be faster, which
            it is with layers and simple functions alone: then the products of a batch of gradients are one.
    """

    layers: list[LinearLayer]
    together: int


def linear_layers(outputs: Sequence[Tensor], parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> LinearLayers:
    """Return the linear layers below some tensors that have one of the parameters as their weight and nobody else does.

    A weight that is used twice, has hooks, or is anything but a parameter of this ``dtype`` as it is (cast, normalised,
    sharded) is left to autograd, and so is whatever is no linear layer.
    """
    plain = [type(p) is nn.Parameter and p.dtype == dtype and not p._backward_hooks for p in parameters]
    places = {id(p): place for place, p in enumerate(parameters) if plain[place]}
    nodes, uses = _graph(outputs)

    def place_of(node: Any, shape: tuple[int, ...]) -> int | None:
        """Return the place of the parameter that a node accumulates the gradient of, if it is used once."""
        variable = getattr(node, "variable", None)
        if variable is None or uses[node] != 1 or variable.shape != shape:
            return None
        return places.get(id(variable))

    layers = []
    for node in nodes:
        kind = type(node).__name__
        if kind not in _INPUTS:
            continue
        name, _, weight_place = _INPUTS[kind]
        transposed = node.next_functions[weight_place][0]
        if type(transposed).__name__ != "TBackward0" or uses[transposed] != 1:
            continue
        if kind == "AddmmBackward0" and not node._saved_alpha == node._saved_beta == 1:
            continue
        inputs = getattr(node, name)
        variable = getattr(transposed.next_functions[0][0], "variable", None)
        if inputs is None or variable is None or inputs.dtype != variable.dtype:
            continue
        weight = place_of(transposed.next_functions[0][0], tuple(variable.shape))
        if weight is None:
            continue
        bias = place_of(node.next_functions[0][0], (len(variable),)) if kind == "AddmmBackward0" else None
        layers.append(LinearLayer(GradientEdge(node, 0), inputs.detach(), weight, bias))
    covered = {place for layer in layers for place in (layer.weight, layer.bias)} - {None}
    together = 1
    if layers and len(covered) == len(parameters) and _BATCHED.issuperset([type(node).__name__ for node in nodes]):
        largest = max(len(layer.inputs) * parameters[layer.weight].shape[0] for layer in layers)
        together = max(1, (_TOGETHER if layers[0].inputs.is_cpu else _TOGETHER_ELSEWHERE) // max(1, largest))
    return LinearLayers(layers, together)


def reaches(output: Tensor, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether a tensor was computed from one of the parameters, as far as gradients flow."""
    wanted = {id(parameter) for parameter in parameters}
    return any(id(getattr(node, "variable", None)) in wanted for node in _graph([output])[0])


def _graph(outputs: Sequence[Tensor]) -> tuple[list[Any], dict[Any, int]]:
    """Return the nodes below some tensors, each once, and how often each is used there."""
    seen: dict[Any, None] = {}
    uses: dict[Any, int] = {}
    waiting: list[Any] = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen[node] = None
            for below, _ in node.next_functions:
                if below is not None:
                    uses[below] = uses.get(below, 0) + 1
                    waiting.append(below)
    return [*seen], uses
