"""Whether equal heads run together: a rule of sizes alone, so that runs of one seed agree to the last bit.

A probe of the time would let luck decide how numbers are rounded, and a resumed run go on otherwise than it began. The
thresholds are from ``python -m benchmarks.equal_heads``: forward and backward of one product over those of one head
after the other, one thread of a CPU with AVX-512. Two heads lose by putting their weights together (1.08 to 1.14)
unless the sum of two gradients of large features is saved (0.88); three as one take 0.83 to 1.00 of the time, six 0.73
to 0.97; weights that are many beside the rows cost more to put together than is saved (1.02 to 1.12). On a GPU, where
each saved call is saved time, two are enough; that is not measured.
"""

from __future__ import annotations

from torch import Tensor

_FEW, _LARGE_FEATURES = 3, 2**18
_WEIGHTS_A_ROW = 2**10
_LARGEST = 2**26
"""Numbers: larger than that, what all heads hold at once is 256 MB in float32, of which a backward needs two more."""


def runs_together(heads: int, features: Tensor, width: int, weights: int) -> bool:
    """Return whether N equal heads should run as one.

    Args:
        heads: N.
        features: (B, D), which they all read.
        width: H, the outputs of a head's widest layer.
        weights: the number of a head's weights.
    """
    rows = len(features)
    if heads < 2 or weights > _WEIGHTS_A_ROW * rows or heads * width * rows > _LARGEST:
        return False
    return heads >= _FEW or features.device.type != "cpu" or features.numel() >= _LARGE_FEATURES
