"""Gradients with respect to the last shared layer.

Its rows are summed over processes (P x |W| numbers); one backward of the weighted losses follows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.core.update.gradients.base import GradientLevel
from mtl_lightning.core.update.losses import window_losses


class LastLayerLevel(GradientLevel):
    """Gradients with respect to the weights of the last shared layer, which the architecture declares.

    See :meth:`~mtl_lightning.architectures.Architecture.last_shared`; the weights of several such layers are taken
    together, as one row.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.terms: list[tuple[list[Tensor], Tensor | None]] = []
        self.rows: Tensor | None = None

    def look(self) -> None:
        """Forward every micro-batch, and go back through its heads to the layer, task by task."""
        for batch in self.window.batches:
            layers = self.network.last_shared_weights(batch["inputs"])
            values, aux = window_losses(self.network, self.runtime, self.window, batch)
            self.losses.add(torch.stack(values), aux, len(self.window.batches))
            terms = [values[index] * self.scale for index in self.present_indices]
            found = [self._row(row, term, layers) for row, term in enumerate(terms)]
            rows = torch.stack(found)
            self.rows = rows if self.rows is None else self.rows + rows
            self.terms.append((terms, self.aux_term(aux)))

    def _row(self, row: int, term: Tensor, layers: list[Any]) -> Tensor:
        """Return a task's gradient with respect to the layers, one after the other."""
        found = self.of_task(row, term, layers) if term.requires_grad else (None,) * len(layers)
        parts = [torch.zeros_like(w) if g is None else g for w, g in zip(layers, found, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts])

    def gramian(self) -> Tensor:
        """Sum the rows over processes, then take their inner products."""
        assert self.rows is not None  # a window holds at least one batch
        return gramian(self.runtime.all_sum(self.rows))

    def trunk_gradients(self, weights: Tensor, alpha: Tensor) -> list[Tensor]:
        """Differentiate the weighted sum of the losses."""
        total: list[Tensor] = []
        for terms, aux in self.terms:
            pairs = [
                (term, (weight * a).to(term.dtype))
                for term, weight, a in zip(terms, weights, alpha, strict=True)
                if term.requires_grad
            ]
            if aux is not None:
                pairs.append((aux, torch.ones_like(aux) / self.scale))
            if pairs:
                found = self.through_trunk([t for t, _ in pairs], [f for _, f in pairs])
                total = list(torch._foreach_add(total, found)) if total else found
        return total or [torch.zeros_like(parameter) for parameter in self.trunk]
