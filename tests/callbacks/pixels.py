"""A dense problem whose predictions are known: the network hands its inputs on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl_lightning.tasks import DepthEstimation, SemanticSegmentation, SurfaceNormals, Task
from mtl_lightning.types import Batch, TargetSpec

SIZE = (12, 20)


class Pixels(nn.Module):
    """Outputs (B, K, H, W) of every task, read off inputs (B, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        red = inputs[:, :1] + 0 * self.scale
        return {"seg": torch.cat([-red, red], 1), "depth": red + 2, "normals": inputs + 0 * self.scale}


def dense_tasks() -> dict[str, Task]:
    """Classes, depths and normals of every pixel."""
    return {
        "seg": SemanticSegmentation(TargetSpec(shape=SIZE, classes=2)),
        "depth": DepthEstimation(TargetSpec(shape=SIZE, units="m")),
        "normals": SurfaceNormals(TargetSpec(shape=(3, *SIZE))),
    }


def dense_batch() -> Batch:
    """Four pictures, whose targets are what :class:`Pixels` makes of them, but where depths would be below 0.1."""
    inputs = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    depth = (inputs[:, 0] + 2).clamp(min=0.1)
    targets = {"seg": (inputs[:, 0] > 0).long(), "depth": depth, "normals": inputs.clone()}
    targets["seg"][:, :6, :10] = -100
    return {"inputs": inputs, "targets": targets}
