"""Gates: what they read of the inputs, and how they weigh the outputs of experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.architectures.base import EncoderArgument, build_encoder
from mtl_lightning.architectures.sizes import feature_size
from mtl_lightning.architectures.tabular import TabularEncoder
from mtl_lightning.types import ConfigurationError, InputSpec, TableSpec, TensorSpec

GRID = 4  # cells per axis that a picture is averaged into


class Pool(nn.Module):
    """Averages features over space, into ``cells`` cells per axis: (B, D, *) to (B, D * cells ** axes).

    Vectors (B, D) stay as they are, and one number a row becomes (B, 1).
    """

    def __init__(self, cells: int = 1) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, *) to a vector per row."""
        if features.dim() <= 2:
            return features.reshape(features.shape[0], -1)
        if self.cells == 1:
            return features.flatten(2).mean(-1)
        pools = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}
        pooled: Tensor = pools[features.dim()](features, self.cells)
        return pooled.flatten(1)

    def width(self, size: tuple[int | None, ...]) -> int | None:
        """Return how many numbers a row of this size becomes; None where they cannot be told."""
        channels = size[0] if size else 1
        return None if channels is None or len(size) > 4 else channels * self.cells ** max(len(size) - 1, 0)


def gate_reader(argument: EncoderArgument | None, spec: InputSpec | None, cells: int) -> tuple[nn.Module, int]:
    """Make what turns the experts' inputs into the vector (B, G) that gates read, and return it with G.

    - A network of the user's: its features, averaged over space if they have any.
    - None, vectors: these themselves. None, maps (C, *): averaged into ``cells`` cells per axis, so that G does
      not grow with the picture (a linear gate on all pixels has more weights than many a network it chooses from).
    - None, a table: its standardised columns, embedded categories and the means of its lists' embedded elements.

    Raises:
        ConfigurationError: for other inputs without a network.
    """
    if argument is not None:
        network = build_encoder(argument, spec)
        return nn.Sequential(network, Pool()), feature_size(network, spec)[0]
    if isinstance(spec, TableSpec):
        table = TabularEncoder(spec, hidden=())
        return table, table.out_features[0]
    if isinstance(spec, TensorSpec) and getattr(torch, spec.dtype).is_floating_point:
        pool = Pool(cells)
        width = pool.width(spec.shape)
        if width is not None:
            return pool, width
    raise ConfigurationError(
        "Expected inputs that a gate can read: floating-point ones of known width, or a table; found the input spec "
        f"{spec!r}. Give a network that maps the inputs to a vector as `gate_input`."
    )


class Gate(nn.Module):
    """One weight per expert, from what the gate reads: softmax(W x + b), (B, G) to (B, E)."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, experts)

    def forward(self, read: Tensor) -> Tensor:
        """Map what is read (B, G) to weights (B, E) that sum to 1."""
        return self.map(read).softmax(-1)  # type: ignore[no-any-return]  # torch types what a module returns as Any


def mix(weights: Tensor, outputs: Tensor) -> Tensor:
    """Return the weighted sum (B, D, *) of the experts' outputs (B, E, D, *), with weights (B, E)."""
    return torch.einsum("be,be...->b...", weights.to(outputs.dtype), outputs)
