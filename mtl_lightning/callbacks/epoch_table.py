"""A small table of validation metrics in the terminal, at the end of each validation."""

from __future__ import annotations

import sys

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.core.update.best_validation import BestValidation
from mtl_lightning.ranges import Ranged
from mtl_lightning.text_table import by_task, tables

_HIDDEN = ("labels",)


class EpochTable(Ranged, Callback):
    """Prints the metrics of each task after a validation of ``fit``, and says which epoch is the best so far.

    The line above the table names the epoch, counted from 0, and the value of what the trainer's ``ModelCheckpoint``
    monitors, or else ``val/loss_normalised``; the last line of a fit names the best epoch. It is printed by the first
    process, above the progress bar if there is one. The command line adds it.

    Args:
        every_n_validations: prints after every validation whose number this divides; 0 switches the callback off.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def __init__(self, every_n_validations: int = 1) -> None:
        self.every_n_validations = every_n_validations
        self._validations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and count validations anew."""
        multi_task(pl_module, self)
        self._validations = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of a validation that belongs to training."""
        module = multi_task(pl_module, self)
        if not self.every_n_validations or not module.validations.in_training:
            return
        self._validations += 1
        if trainer.is_global_zero and self._validations % self.every_n_validations == 0:
            found = by_task(trainer.callback_metrics, "val", module.tasks)
            rows = {
                task: {metric: f"{value:.4g}" for metric, value in values.items() if metric not in _HIDDEN}
                for task, values in found.items()
            }
            heading = f"epoch {trainer.current_epoch}, update {trainer.global_step}{_verdict(module.validations.best)}"
            _say(trainer, f"{heading}\n{tables(rows)}" if rows else heading)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the best epoch."""
        best = multi_task(pl_module, self).validations.best
        if self.every_n_validations and trainer.is_global_zero and best.score is not None:
            where = f"epoch {best.epoch}, update {best.update}"
            _say(trainer, f"The best validation was that of {where}: {best.monitor} {best.score:.4g}")


def _verdict(best: BestValidation) -> str:
    """Return how good the latest validation was; nothing if it had no value of what is monitored."""
    if best.latest != best.latest:
        return ""
    others = "the best so far *" if best.is_latest else f"the best so far is {best.score:.4g} of epoch {best.epoch}"
    return f": {best.monitor} {best.latest:.4g}, {others}"


def _say(trainer: Trainer, text: str) -> None:
    """Print a text without breaking the progress bar, be it there, switched off, or over."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar):
        Tqdm.write(text)  # its own `print` says nothing where no bar is shown
    elif isinstance(bar, ProgressBar):
        bar.print(text)
    else:
        sys.stdout.write(f"{text}\n")
