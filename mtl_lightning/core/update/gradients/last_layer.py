"""Gradients with respect to the last shared layer.

Its rows are summed over processes (P x |W| numbers); one backward of the weighted losses follows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning.core.network.network import at_least_float32
from mtl_lightning.core.update.gradients.base import GradientLevel
from mtl_lightning.core.update.losses import window_losses


class LastLayerLevel(GradientLevel):
    """Gradients with respect to the weight of the last shared layer: the last shared parameter that is no vector."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        matrices = [parameter for parameter in self.trunk if parameter.dim() > 1]
        self.layer: nn.Parameter = (matrices or self.trunk)[-1]
        self.terms: list[tuple[list[Tensor], Tensor | None]] = []
        number, size = len(self.present_indices), self.layer.numel()
        self.rows = torch.zeros(number, size, device=self.layer.device, dtype=self.layer.dtype)

    def look(self) -> None:
        """Forward every micro-batch, and go back through its heads to the layer, task by task."""
        for batch in self.window.batches:
            values, aux = window_losses(self.network, self.runtime, self.window, batch)
            self.losses.add(torch.stack(values), aux, len(self.window.batches))
            terms = [values[index] * self.scale for index in self.present_indices]
            for row, term in enumerate(terms):
                if term.requires_grad:
                    (found,) = self.of_task(row, term, [self.layer])
                    if found is not None:
                        self.rows[row] += found.reshape(-1)
            self.terms.append((terms, self.aux_term(aux)))

    def gramian(self) -> Tensor:
        """Sum the rows over processes, then take their inner products."""
        rows = at_least_float32(self.runtime.all_sum(self.rows))
        return rows @ rows.T

    def trunk_gradients(self, weights: Tensor, alpha: Tensor) -> list[Tensor]:
        """Differentiate the weighted sum of the losses."""
        total = [torch.zeros_like(parameter) for parameter in self.trunk]
        for terms, aux in self.terms:
            pairs = [
                (term, (weight * a).to(term.dtype))
                for term, weight, a in zip(terms, weights, alpha, strict=True)
                if term.requires_grad
            ]
            if aux is not None:
                pairs.append((aux, torch.ones_like(aux) / self.scale))
            if pairs:
                torch._foreach_add_(total, self.through_trunk([t for t, _ in pairs], [f for _, f in pairs]))
        return total
