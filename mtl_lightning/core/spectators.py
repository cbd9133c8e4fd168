"""What callbacks are shown of a validation or test while it runs: every batch with its outputs."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from mtl_lightning.types import Batch


class Spectator(Callback):
    """A callback that sees the outputs of an evaluation, which are computed once for all who look at them."""

    def see(
        self, module: LightningModule, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int
    ) -> None:
        """Look at a batch, whose targets have been checked; nothing may be changed.

        Args:
            module: what is evaluated.
            stage: ``"val"`` or ``"test"``.
            batch: one micro-batch, ``{"inputs": ..., "targets": {task: tensor}}``.
            outputs: (B, K, *) of every task in the batch's targets, and of those they read.
            dataloader_idx: which dataloader it is of.
        """
        raise NotImplementedError
