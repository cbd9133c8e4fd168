"""Features cut off from the trunk, so that one backward through all heads gives each task's gradient of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class CutFeatures(Mapping[str, Tensor]):
    """The features of N tasks, each task's for itself even where they are the same.

    A head that runs by itself reads a leaf of its own, ``features[task]``. Heads that run together read no leaf: the
    backward of their first layer writes the gradients of all its tasks into one tensor (:meth:`first_layer`).

    Args:
        features: (B, D, *) by task, as the architecture gave them.
    """

    def __init__(self, features: Mapping[str, Tensor]) -> None:
        self.features = features
        self._leaves: dict[str, Tensor] = {}
        self._written: list[tuple[list[str], Tensor]] = []
        self._anchors: list[Tensor] = []

    def __getitem__(self, name: str) -> Tensor:
        """Return the leaf (B, D, *) that a task's head reads."""
        if name not in self._leaves:
            self._leaves[name] = self.features[name].detach().requires_grad_()
        return self._leaves[name]

    def __len__(self) -> int:
        """Return N."""
        return len(self.features)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self.features)

    def memory(self, names: Sequence[str]) -> Tensor:
        """Return memory (n, B, D) for the gradients of some tasks, which the first layer of their heads will write."""
        shared = self.features[names[0]]
        rows = shared.new_empty(len(names), *shared.shape)
        self._written.append(([*names], rows))
        return rows

    def first_layer(self, features: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map features (B, D) that n tasks share to what the first layers of their heads give (n H, B).

        Args:
            features: as they were given.
            rows: (n, B, D) where the backward writes the features' gradients.
            weight: (n H, D), one layer's after the other.
            bias: (n H,), if they have one.
        """
        anchor = torch.zeros((), device=features.device, requires_grad=True)
        self._anchors.append(anchor)
        values: Tensor = _FirstLayer.apply(anchor, features.detach(), weight, bias, rows)  # type: ignore[no-untyped-call]
        return values

    @property
    def targets(self) -> list[Tensor]:
        """What has to be asked for in a backward, so that it goes on to the features."""
        return [*self._leaves.values(), *self._anchors]

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Return the gradients (B, D, *) of the tasks that have one, given those of the :attr:`targets`."""
        alone = {name: gradient for name, gradient in zip(self._leaves, found, strict=False) if gradient is not None}
        return {**alone, **{name: row for names, rows in self._written for name, row in zip(names, rows, strict=True)}}

    def rows(self, found: Sequence[Tensor | None], names: Sequence[str], shared: Tensor) -> Tensor:
        """Return the gradients (P, B, D, *) of P tasks with the same features, without a copy where they lie like that.

        Args:
            found: those of the :attr:`targets`.
            names: the tasks; the gradient of one that has none is 0.
            shared: (B, D, *) the features.
        """
        if len(self._written) == 1 and self._written[0][0] == [*names]:
            return self._written[0][1]
        by_name = self.gradients(found)
        if not names:
            return shared.new_empty(0)
        zero = shared if by_name.keys() >= {*names} else torch.zeros_like(shared)
        return torch.stack([by_name.get(name, zero) for name in names])


class _FirstLayer(torch.autograd.Function):
    """The first layers of several heads, of the same features: their gradients are not added up, but written down."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Multiply features (B, D) with weights (n H, D); the anchor is what makes a backward come here."""
        del anchor
        ctx.save_for_backward(features, weight)
        ctx.rows, ctx.biased = rows, bias is not None
        if bias is None:
            return torch.mm(weight, features.t())
        return torch.addmm(bias.unsqueeze(1), weight, features.t())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Write each head's gradient of the features, and return those of weights and biases."""
        features, weight = ctx.saved_tensors
        number, rows = len(ctx.rows), len(features)
        apart = gradient.reshape(number, -1, rows).transpose(1, 2)
        torch.bmm(apart, weight.view(number, -1, weight.shape[1]), out=ctx.rows)
        of_weight = gradient @ features if ctx.needs_input_grad[2] else None
        return None, None, of_weight, gradient.sum(1) if ctx.biased else None, None
