"""The tasks' mean losses over some updates, added up on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtl_lightning.core import MultiTaskModule


class MeanLosses:
    """Sums of the losses of updates, and for each task the number of updates in which it has labels.

    Attributes:
        updates: how many were added since the last :meth:`read`.
    """

    def __init__(self) -> None:
        self.updates = 0
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None

    def add(self, module: MultiTaskModule) -> None:
        """Add the update under way, whose gradient is known."""
        window, losses = module.updates.window, module.updates.losses.tasks
        if window is None or losses.shape != window.present.shape:
            return
        if self._sums is None or self._counts is None:
            self._sums, self._counts = losses.clone(), window.present.to(losses)
        else:
            self._sums += losses  # 0 of a task that is absent
            self._counts += window.present
        self.updates += 1

    def read(self, module: MultiTaskModule) -> dict[str, float]:
        """Return the mean losses over all processes, which all call this, of the tasks that have some; start afresh."""
        if self._sums is None or self._counts is None:
            return {}
        sums, counts = module.runtime.all_sum(self._sums), self._counts
        means: list[float] = torch.where(counts > 0, sums / counts, torch.nan).tolist()
        self.updates, self._sums, self._counts = 0, None, None
        return {name: mean for name, mean in zip(module.tasks, means, strict=True) if math.isfinite(mean)}
