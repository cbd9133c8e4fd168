"""The name of the checkpoint that a run goes on from, in errors of what is restored from it.

Relies on ``Callback.on_exception`` being called with what ends a run, before it is raised; those who load the states of
optimizers, schedulers and loaders are not told the file.
"""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from mtl_lightning.errors import CheckpointError


class CheckpointErrors(Callback):
    """Says of an error about a checkpoint which file that is."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the file's name before the message, if it is not in it."""
        path, said = trainer.ckpt_path, str(exception)
        if isinstance(exception, CheckpointError) and path is not None and str(path) not in said:
            exception.args = (f"{path}: {said}",)
