"""When equal heads run together: a rule of sizes alone, so that runs of one seed agree to the last bit."""

from __future__ import annotations

from torch import Tensor

_CACHED = 2**18  # numbers: 1 MB in float32


def stacks_of(heads: int, features: Tensor, width: int) -> int:
    """Return in how many stacks N equal heads should run: as many as there are heads if each is better alone.

    Args:
        heads: N.
        features: (B, D), which they all read.
        width: H, the outputs of a head's widest layer.
    """
    if features.device.type != "cpu":
        return 1
    together = max(1, _CACHED // max(1, len(features) * width))
    return min(heads, -(-heads // together))
