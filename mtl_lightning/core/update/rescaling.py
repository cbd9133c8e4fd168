"""Tasks that follow the scale of their targets during training: statistics over all processes, before the losses."""

from __future__ import annotations

import torch

from mtl_lightning.architectures.base import last_affine
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.core.update.window import Window


def rescale_targets(network: Network, runtime: Runtime, window: Window) -> None:
    """Let the present tasks that follow their target's scale do so, with sums over the window and all processes."""
    names = [name for name in window.names if network.tasks[name].rescales]
    if not names:
        return
    sums = []
    for name in names:
        task = network.tasks[name]
        parts = [
            task.target_sums(targets_of(batch)[name], weight_of(batch, name))
            for batch in window.batches
            if name in targets_of(batch)
        ]
        nothing = task.target_sums(torch.full((1, *task.spec.shape), torch.nan, device=runtime.device))
        sums.append(torch.stack([nothing, *parts]).sum(0))
    for name, total in zip(names, runtime.summed(sums), strict=True):
        network.tasks[name].rescale(total, last_affine(network.heads.get_submodule(name), name))
