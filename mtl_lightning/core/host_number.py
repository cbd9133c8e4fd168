"""One number of the device, looked at on the host: later, without a wait, or at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


class HostNumber:
    """A place in the host's memory that numbers are copied to, and looked at through one view of NumPy.

    On a GPU the memory is pinned, so that :meth:`send` waits for nothing, and :meth:`read` only for what was queued
    before the number. On the CPU nothing is queued, and both are a copy of 8 bytes.

    Args:
        device: where the numbers are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._place = torch.zeros((), dtype=torch.float64, pin_memory=device.type == "cuda")
        self._view = self._place.numpy()
        self._event: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's

    def send(self, number: Tensor) -> None:
        """Have a number () copied; what was sent before has to be read by then."""
        self._place.copy_(number, non_blocking=True)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self.device))

    def read(self) -> float:
        """Return the number that was sent last."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._view)


ALWAYS_WAITS = False
"""Whether to take the CPU for a device whose work is waited for: for tests of a GPU's way without one."""


def is_waited_for(tensor: Tensor) -> bool:
    """Whether a look at a tensor waits for work that is queued on its device."""
    return tensor.is_cuda or ALWAYS_WAITS


def now(number: Tensor) -> float:
    """Return a number (), once the device has done what is queued; on the CPU by a view, as cheap as can be."""
    if not number.is_cpu or ALWAYS_WAITS:
        return float(number.item())
    place = _on_cpu()
    place.send(number)
    return place.read()


@cache
def _on_cpu() -> HostNumber:
    return HostNumber(torch.device("cpu"))
