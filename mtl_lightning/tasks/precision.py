"""Statistics of targets that stay as precise as they are, whatever dtype a network is brought to."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import Self


class KeepsPrecision(nn.Module):
    """A module whose buffers and parameters follow ``.to()``, but are never rounded: half precision would round
    predictions.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow ``.to()``, but keep what is more precise as it is."""

        def keep_precision(tensor: Tensor) -> Tensor:
            try:
                moved = fn(tensor)
            except TypeError:  # a device without float64, such as MPS
                return fn(tensor.float())
            return tensor.to(moved.device) if moved.itemsize < tensor.itemsize else moved

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return self
