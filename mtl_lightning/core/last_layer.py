"""Gradients with respect to the last shared layer.

Its rows are summed over processes (P x |W| numbers); one backward of the weighted losses follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.core.losses import Losses, at_least_float32, window_losses
from mtl_lightning.core.probe import Probe
from mtl_lightning.types import Batch

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class LastLayer(Probe):
    """Gradients with respect to the weight of the last shared layer: the last shared parameter that is no vector."""

    def __init__(self, module: MultiTaskModule, balancer: GradientBalancer, counts: Mapping[str, float]) -> None:
        super().__init__(module, balancer, counts)
        matrices = [parameter for parameter in self.rows.trunk if parameter.dim() > 1]
        self.layer: nn.Parameter = (matrices or self.rows.trunk)[-1]
        self.terms: list[tuple[list[Tensor], Tensor | None]] = []
        size = self.layer.numel()
        self.layer_rows = torch.zeros(len(self.here), size, device=self.layer.device, dtype=self.layer.dtype)

    def see(self, batch: Batch, seen: Losses, parts: int) -> None:
        """Forward a micro-batch, and go back through its heads to the layer, task by task."""
        losses, aux = window_losses(self.module, batch, self.counts)
        seen.add(torch.stack(losses), aux, parts)
        terms = [losses[index] * self.scale for index in self.here]
        for row, term in enumerate(terms):
            if term.requires_grad:
                (found,) = self.of_task(row, term, [self.layer])
                if found is not None:
                    self.layer_rows[row] += found.reshape(-1)
        self.terms.append((terms, self.aux_term(aux, parts)))

    def gramian(self) -> Tensor:
        """Sum the rows over processes, then take their inner products."""
        rows = at_least_float32(self.module.all_sum(self.layer_rows))
        return rows @ rows.T

    def trunk_gradients(self, weights: Tensor, alpha: Tensor) -> list[Tensor]:
        """Differentiate the weighted sum of the losses."""
        total = [torch.zeros_like(parameter) for parameter in self.rows.trunk]
        for terms, aux in self.terms:
            pairs = [
                (term, (weight * a).to(term.dtype))
                for term, weight, a in zip(terms, weights, alpha, strict=True)
                if term.requires_grad
            ]
            if aux is not None:
                pairs.append((aux, torch.ones_like(aux) / self.scale))
            if pairs:
                torch._foreach_add_(total, self.differentiate([t for t, _ in pairs], [f for _, f in pairs]))
        return total
