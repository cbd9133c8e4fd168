"""Arguments of the trainer that Lightning refuses under manual optimization, taken over and given back."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer


class TrainerArguments(Callback):
    """Holds ``accumulate_grad_batches`` and ``gradient_clip_val`` while Lightning checks and trains.

    Lightning refuses both for a module with manual optimization, before it calls ``setup``. They are hidden from
    that check. The accumulation is given back right after it, because the trainer's counters need it; clipping when
    the trainer is done, because Lightning would refuse the module's own clipping beside it.
    """

    def take(self, trainer: Trainer) -> None:
        """Take the arguments over; hide them if the trainer is about to fit."""
        self.accumulate_grad_batches = trainer.accumulate_grad_batches
        self.gradient_clip_val = trainer.gradient_clip_val
        self.gradient_clip_algorithm = trainer.gradient_clip_algorithm or "norm"
        if trainer.state.fn == "fit":
            trainer.accumulate_grad_batches, trainer.gradient_clip_val = 1, None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the accumulation back to the trainer's counters."""
        trainer.accumulate_grad_batches = self.accumulate_grad_batches

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give both back."""
        self._give_back(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give both back."""
        self._give_back(trainer)

    def _give_back(self, trainer: Trainer) -> None:
        trainer.accumulate_grad_batches = self.accumulate_grad_batches
        trainer.gradient_clip_val = self.gradient_clip_val
