"""The tasks' mean losses over an epoch, for balancers that learn from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.core.on_device import on_device
from mtl_lightning.core.runtime import Runtime


class EpochLosses:
    """Sums of one process's part of the losses; means over labelled elements once the processes are added up."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None

    def update(self, losses: Tensor, counts: Mapping[str, float], bad: Tensor | bool = False) -> None:
        """Add an update.

        Args:
            losses: (T,) this process's part of the tasks' mean losses over all processes; inf and nan are left out.
            counts: the labelled elements that these are means over.
            bad: whether to leave the update out; only the device may know (), but of the first one.
        """
        finite = torch.isfinite(losses)
        if bad is not False:
            finite = finite & ~torch.as_tensor(bad, device=losses.device)
        number = torch.where(finite, on_device([*counts.values()], losses.device, losses.dtype), 0.0)
        weighed = torch.where(finite, losses, 0.0) * number
        self.sums = weighed if self.sums is None else self.sums + weighed
        self.counts = number if self.counts is None else self.counts + number

    def compute_and_reset(self) -> tuple[Tensor, Tensor] | None:
        """Return the means (T,) and for which tasks there are any (T,) bool, and start anew; None without an update."""
        if self.sums is None or self.counts is None:
            return None
        runtime = self._runtime
        sums, counts = runtime.all_sum(self.sums), runtime.all_sum(self.counts) / runtime.world_size
        self.sums = self.counts = None
        present = counts > 0
        return torch.where(present, sums / torch.where(present, counts, 1.0), 0.0), present

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        if self.sums is None or self.counts is None:
            return {}
        return {"sums": self.sums.cpu(), "counts": self.counts.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        device = self._runtime.device
        self.sums, self.counts = (state[key].to(device) if key in state else None for key in ("sums", "counts"))
