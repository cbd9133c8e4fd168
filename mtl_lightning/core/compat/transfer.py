"""What a batch of training is before it goes to the device, and what it is there.

The public hook for it, ``on_before_batch_transfer``, is taken by a datamodule that has one of its own. Relies on
``LightningModule._on_before_batch_transfer`` and ``_apply_batch_transfer_handler``, through which Lightning's loops
call the hooks, wherever they are; on ``is_overridden``; and on ``move_data_to_device`` leaving tensors as they are that
are on the device, in new containers.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from mtl_lightning.core.update.host_counts import HostCounts

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_MAY_CHANGE_IT = {*_HOOKS[1:]}


class Transfers(LightningModule):
    """A module that has the labels of a batch of training counted before they go to the device.

    Attributes:
        host_counts: counts them.
        fast_paths: whether hooks that nobody has written are passed over.
    """

    host_counts: HostCounts
    fast_paths: bool
    _written: frozenset[str] | None = None  # the hooks that somebody has written
    _passes_over = False

    def look_for_hooks_again(self) -> None:
        """Forget which hooks the module and the datamodule have, which may be another one."""
        self._written = None

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        written = self._hooks_written()
        if not self._passes_over or "on_before_batch_transfer" in written:
            batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        if self._counts_on_host():
            self.host_counts.count(batch)
        return batch

    def _apply_batch_transfer_handler(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        moved = None
        if not self._hooks_written() & _MAY_CHANGE_IT and self._passes_over:
            moved = _as_it_is(batch, device or self.device)
        if moved is None:
            moved = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        self.host_counts.follow(moved)
        return moved

    def _counts_on_host(self) -> bool:
        """Whether a batch of training is under way which no hook of the user's changes on the device."""
        trainer = self._trainer
        return trainer is not None and trainer.training and not self._hooks_written() & _MAY_CHANGE_IT

    def _hooks_written(self) -> frozenset[str]:
        """Return which hooks the user's module or datamodule has, looked for once in a run."""
        if self._written is None:
            data = getattr(self._trainer, "datamodule", None)
            found = {name for name in _HOOKS if is_overridden(name, self, LightningModule)}
            found |= {name for name in _HOOKS if data is not None and is_overridden(name, data, LightningDataModule)}
            self._written = frozenset(found)
            profiler = getattr(self._trainer, "profiler", None)
            self._passes_over = self.fast_paths and isinstance(profiler, PassThroughProfiler)
        return self._written


def _as_it_is(batch: Any, device: torch.device) -> dict[str, Any] | None:
    """Return a batch of tensors, and dicts of them, in new containers if all are on a device; else None."""
    if type(batch) is not dict:
        return None
    made: dict[str, Any] = {}
    for key, value in batch.items():
        for one in value.values() if type(value) is dict else (value,):
            if type(one) is not Tensor or one.device != device:
                return None
        made[key] = {**value} if type(value) is dict else value
    return made
