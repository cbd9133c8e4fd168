"""Train a little, write a checkpoint, and compare what is loaded from it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from mtl_lightning import MultiTaskModule
from tests.helpers import assert_same, fit, make_batches

PATH = "saved/model.ckpt"


class Doubling(nn.Module):
    """A user's network with a size of its own."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 2 * size)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.layer(inputs))


def single(batches: list[Any]) -> list[Any]:
    """The same batches in float32."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() else tensor

    return [
        {"inputs": cast(batch["inputs"]), "targets": {n: cast(t) for n, t in batch["targets"].items()}}
        for batch in batches
    ]


BATCHES = single(make_batches(3))


def assert_alike(loaded: MultiTaskModule, module: MultiTaskModule) -> None:
    assert_same(loaded.state_dict(), module.state_dict())
    inputs = BATCHES[0]["inputs"]
    assert_same(loaded.eval()(inputs), module.eval()(inputs))


def trained(module: MultiTaskModule, data: Any = None, **options: Any) -> MultiTaskModule:
    """Train for an epoch and write a checkpoint."""
    data = make_batches(3) if data is None else data
    trainer = fit(module, data, precision="32-true", callbacks=[ModelCheckpoint("saved", filename="model")], **options)
    assert trainer.global_step > 0
    return module
