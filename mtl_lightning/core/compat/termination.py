"""SIGTERM, which clusters send before they take a machine away: finish the window, write a checkpoint, leave with 0.

Relies on ``_SignalConnector.register_signal_handlers`` (``Trainer._signal_connector``) setting Lightning's handler
between ``on_fit_start`` and ``on_train_start``, and on ``SIGTERMException`` ending the program with status 0.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mtl_lightning.core.compat.atomic import write_atomically
from mtl_lightning.core.runtime import Runtime


class Termination(Callback):
    """Notes a SIGTERM during training, and ends the training at the next point that a run can be resumed from exactly.

    Lightning alone ends it after any batch and saves nothing. The checkpoint is the ``last`` one of the trainer's first
    ``ModelCheckpoint``, so that ``fit(ckpt_path="last")`` finds it; without a ``ModelCheckpoint`` none is written.
    One process that is told is enough: all leave after the same update.

    Lightning's own handler, which talks to the other processes from within the signal, is put aside while the
    training runs; one that the user has set is still called.
    """

    def __init__(self) -> None:
        self.told = False
        self._users: Any = None
        self._lightnings: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints written so that a kill in the meantime leaves the one before."""
        write_atomically(trainer.strategy)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the user's handler; the trainer has not set its own yet."""
        self._users = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of the trainer's handler; in a thread, where no handler can be set, nothing is noted."""
        self.told = False
        if threading.current_thread() is threading.main_thread():
            self._lightnings = signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        self.told = True
        if callable(self._users):
            self._users(signum, frame)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the trainer its handler back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the trainer its handler back."""
        self._give_back()

    def _give_back(self) -> None:
        if self._lightnings is not None and signal.getsignal(signal.SIGTERM) == self._note:
            signal.signal(signal.SIGTERM, self._lightnings)
        self._lightnings = None

    def stop_if_requested(self, trainer: Trainer, runtime: Runtime) -> None:
        """Write a checkpoint and end the training if any process was told to; called by all at the same point.

        Raises:
            SIGTERMException: which ends the program with status 0.
        """
        if not runtime.anywhere(self.told):
            return
        path = _last(trainer)
        if path is not None:
            trainer.save_checkpoint(path)
        rank_zero_info(f"Terminated by SIGTERM after update {trainer.global_step}; checkpoint: {path}.")
        raise SIGTERMException


def _last(trainer: Trainer) -> Path | None:
    """Return where the trainer's first ``ModelCheckpoint`` has its last checkpoint, or would have it."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set outside its __init__
            counters = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
            default = callback.format_checkpoint_name(counters, callback.CHECKPOINT_NAME_LAST)
            path = callback.last_model_path or default
            if callback.save_last:
                callback.last_model_path = path  # before saving, because it is part of what is saved
            return Path(path)
    return None
