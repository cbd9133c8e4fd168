"""Python's numbers on a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(values: Sequence[float], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers as a tensor (N,); onto a GPU they go from pinned memory, since any other copy waits for its queue.

    Args:
        values: the numbers.
        device: where they are to be.
        dtype: of the tensor; by default as ``torch.tensor`` chooses it.
    """
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
