"""Inner products and weighted sums of a linear layer's gradients without these gradients: from its inputs and outputs'.

A linear layer y = x W' + b with inputs x (B, in), of whose outputs task t's gradient is d_t (B, out), has the gradients
d_t' x and d_t' 1. Their inner products are <d_s, K d_t> with K = x x' + 1 (B, B), and their sum with weights w_t is one
product, (sum of w_t d_t)' x. So T products of B in out numbers, and T rows of in out numbers that are written and read
twice, become one such product and T of B B out numbers.

That products of gradients follow from those of inputs and of outputs' gradients: Efficient per-example gradient
computations, https://arxiv.org/abs/1510.01799; that methods need their Gramian alone: Jacobian Descent for
Multi-Objective Optimization, https://arxiv.org/abs/2406.16232.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.core.update.gradients.linear_layers import LinearLayer

_MOVED = 16  # multiplications of a product that a processor does while it moves one number from or to memory


def saves(batch: int, inputs: int, outputs: int, terms: int) -> bool:
    """Whether the rows of a linear layer cost more than doing without them, by the sizes alone.

    Args:
        batch: B, the examples.
        inputs: how many numbers the layer reads.
        outputs: how many it gives.
        terms: the number of rows.
    """
    row, gradient = inputs * outputs, batch * outputs
    rows = terms * row * (batch + terms + 1)  # d_t' x, the products of rows, and their sum
    without = batch * batch * inputs + terms * gradient * (batch + terms + 1) + batch * row  # K, K d_t, and the same
    moved = 3 * terms * row - 5 * terms * gradient - row - batch * batch
    return without < rows + _MOVED * moved


def exact_enough(tensor: Tensor) -> bool:
    """Whether products in this tensor's precision are what they are called, as they are not with TF32."""
    return tensor.is_cpu and (
        tensor.dtype == torch.float64
        or (tensor.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest")
    )


@dataclass(frozen=True)
class Unwritten:
    """What stands for the rows of a linear layer's parameters.

    Attributes:
        layer: the layer.
        pieces: the gradients of its outputs, of one or several terms each: (n, B, out).
    """

    layer: LinearLayer
    pieces: list[Tensor] = field(default_factory=list)

    def add(self, gradients: Tensor | None, outputs: int, terms: int = 1) -> None:
        """Keep the gradients (n, B, out) of the layer's outputs of the next terms; None where they are 0."""
        inputs = self.layer.inputs
        self.pieces.append(inputs.new_zeros(terms, len(inputs), outputs) if gradients is None else gradients)

    def gradients(self) -> Tensor:
        """Return those of all terms, (P, B, out)."""
        if len(self.pieces) > 1:
            self.pieces[:] = [torch.cat(self.pieces)]
        return self.pieces[0]

    def gramian(self, number: int) -> Tensor:
        """Return the inner products of the first so many rows, in float64.

        Of x = z + 1 m' with the inputs' means m (in,), only z z' is multiplied out: where gradients sum to about 0 over
        the examples, as in front of BatchNorm, what far means would add to x x' cancels out, its rounding does not.
        """
        gradients = self.gradients()[:number]
        mean = self.layer.inputs.mean(0)
        centred = self.layer.inputs - mean
        kernel = centred @ centred.t()
        found = gramian(torch.matmul(kernel, gradients).flatten(1), gradients.flatten(1))
        both = torch.stack([torch.ones_like(centred[:, 0]), centred @ mean])
        sums, means = torch.matmul(both, gradients).double().unbind(1)  # d_t' 1 and d_t' z m, (P, out) each
        cross = sums @ means.t()
        square = mean.double().square().sum() + (0 if self.layer.bias is None else 1)
        return found + cross + cross.t() + square * (sums @ sums.t())

    def combined(self, weights: Tensor) -> list[tuple[int, Tensor]]:
        """Return the rows' sum with weights (P,) as pairs of a parameter's place and its gradient."""
        gradients = self.gradients()
        total = (weights.to(gradients.dtype) @ gradients.flatten(1)).view(gradients.shape[1:])
        found = [(self.layer.weight, total.t() @ self.layer.inputs)]
        return found if self.layer.bias is None else [*found, (self.layer.bias, total.sum(0))]


def unwritten(layers: Sequence[LinearLayer], shapes: Sequence[torch.Size], terms: int) -> dict[int, Unwritten]:
    """Return what does without rows, by the place of its weight.

    Args:
        layers: the linear layers of a graph.
        shapes: those of the parameters that their places are among.
        terms: the number of rows.
    """
    found = {}
    for layer in layers:
        (batch, inputs), outputs = layer.inputs.shape, shapes[layer.weight][0]
        if exact_enough(layer.inputs) and saves(batch, inputs, outputs, terms):
            found[layer.weight] = Unwritten(layer)
    return found
