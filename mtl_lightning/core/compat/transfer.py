"""What a batch of training is before it goes to the device, and what it is there.

The public hook for it, ``on_before_batch_transfer``, is taken by a datamodule that has one of its own. Relies on
``LightningModule._on_before_batch_transfer`` and ``_apply_batch_transfer_handler``, through which Lightning's training
loop calls the hooks, wherever they are, and on ``is_overridden``.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from mtl_lightning.core.update.host_counts import HostCounts

_MAY_CHANGE_IT = ("transfer_batch_to_device", "on_after_batch_transfer")


class Transfers(LightningModule):
    """A module that has the labels of a batch of training counted before they go to the device.

    Attributes:
        host_counts: counts them.
    """

    host_counts: HostCounts

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        if self._counts_on_host():
            self.host_counts.count(batch)
        return batch

    def _apply_batch_transfer_handler(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        moved = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        self.host_counts.follow(moved)
        return moved

    def _counts_on_host(self) -> bool:
        """Whether a batch of training is under way which no hook of the user's changes on the device."""
        trainer = self._trainer
        if trainer is None or not trainer.training:
            return False
        data = getattr(trainer, "datamodule", None)
        for name in _MAY_CHANGE_IT:
            if is_overridden(name, self, LightningModule) or (
                data is not None and is_overridden(name, data, LightningDataModule)
            ):
                return False
        return True
