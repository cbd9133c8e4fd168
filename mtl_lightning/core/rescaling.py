"""Tasks that follow the scale of their targets during training: statistics over all processes, before the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mtl_lightning.architectures.base import last_affine
from mtl_lightning.core.batches import targets_of, weight_of
from mtl_lightning.core.jacobian import summed
from mtl_lightning.types import Batch, ConfigurationError

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule
    from mtl_lightning.core.network import Network


def check_heads(network: Network) -> None:
    """Raise a :class:`ConfigurationError` if a task rescales its outputs, and they come from no layer it can change."""
    for name, task in network.tasks.items():
        if task.rescales and network.architecture.final:
            raise ConfigurationError(
                f"Task {name!r} rescales its outputs during training (`popart`), which needs a head of its own: "
                "expected an architecture that returns features, found one that returns final outputs."
            )
        if task.rescales:
            last_affine(network.heads.get_submodule(name), name)


def rescale_targets(module: MultiTaskModule, window: Sequence[Batch], counts: Mapping[str, float]) -> None:
    """Let the present tasks that follow their target's scale do so, with sums over the window and all processes."""
    names = [name for name, task in module.tasks.items() if task.rescales and counts[name]]
    if not names:
        return
    sums = []
    for name in names:
        task = module.tasks[name]
        parts = [
            task.target_sums(targets_of(batch)[name], weight_of(batch, name))
            for batch in window
            if name in targets_of(batch)
        ]
        nothing = task.target_sums(torch.full((1, *task.spec.shape), torch.nan, device=module.device))
        sums.append(torch.stack([nothing, *parts]).sum(0))
    for name, total in zip(names, summed(module, sums), strict=True):
        module.tasks[name].rescale(total, last_affine(module.heads.get_submodule(name), name))
