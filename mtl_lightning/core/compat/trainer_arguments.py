"""What Lightning refuses or forgets under manual optimization, taken over and given back.

Relies on ``configure_callbacks`` coming before ``__verify_manual_optimization_support`` of
``lightning.pytorch.trainer.configuration_validator``, which refuses, and ``setup`` after it; on a callback that a
module returns taking the place of one of its base class; and on ``ModelCheckpoint._train_time_interval``.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, GradientAccumulationScheduler, ModelCheckpoint

from mtl_lightning.core.compat.checkpoint_errors import CheckpointErrors
from mtl_lightning.core.compat.file_loggers import rename_for_files
from mtl_lightning.core.compat.finetuning import GroupBackboneFinetuning
from mtl_lightning.core.compat.termination import Termination
from mtl_lightning.types import ConfigurationError

Kept = TypeVar("Kept", bound=Callback)


class TrainerArguments(Callback):
    """Holds ``accumulate_grad_batches`` and ``gradient_clip_val`` while Lightning checks and trains.

    Lightning refuses both for a module with manual optimization, before it calls ``setup``. They are hidden from
    that check. The accumulation is given back right after it, because the trainer's counters need it; clipping when
    the trainer is done, because Lightning would refuse the module's own clipping beside it.

    It also lets a ``ModelCheckpoint(train_time_interval=...)`` save, which under manual optimization never does.
    """

    def take_over(self, trainer: Trainer) -> None:
        """Take the arguments over; hide them if the trainer is about to fit."""
        self.accumulate_grad_batches = trainer.accumulate_grad_batches
        self.gradient_clip_val = trainer.gradient_clip_val
        self.gradient_clip_algorithm = trainer.gradient_clip_algorithm or "norm"
        if trainer.state.fn == "fit":
            trainer.accumulate_grad_batches, trainer.gradient_clip_val = 1, None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the accumulation back to the trainer's counters."""
        trainer.accumulate_grad_batches = self.accumulate_grad_batches
        # it advises to save the weights of before the step, which automatic optimization does not either
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call timed checkpoints as under automatic optimization, where they look at the clock."""
        automatic: Any = SimpleNamespace(automatic_optimization=True)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
                callback.on_train_batch_end(trainer, automatic, outputs, batch, batch_idx)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give both back."""
        self._give_back(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give both back."""
        self._give_back(trainer)

    def _give_back(self, trainer: Trainer) -> None:
        trainer.accumulate_grad_batches = self.accumulate_grad_batches
        trainer.gradient_clip_val = self.gradient_clip_val


class ManualAccumulationScheduler(GradientAccumulationScheduler):
    """Lightning's scheduler of the accumulation, without its refusal of manual optimization.

    Lightning puts it in the place of the user's, because a callback that a module returns replaces its base class.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a second source of the same number, as the base class does."""
        if trainer.accumulate_grad_batches != 1:
            raise ConfigurationError(
                "Expected either `Trainer(accumulate_grad_batches=...)` or a GradientAccumulationScheduler, found both."
            )


def replacements(callbacks: list[Callback]) -> list[Callback]:
    """Return the callbacks that take the place of those which refuse manual optimization or mistake the groups."""
    refusing = [c for c in callbacks if type(c) is GradientAccumulationScheduler]
    mistaken = [c for c in callbacks if type(c) is BackboneFinetuning]
    return [
        *(ManualAccumulationScheduler(callback.scheduling) for callback in refusing),
        *(GroupBackboneFinetuning(callback) for callback in mistaken),
    ]


def own_callbacks(trainer: Trainer) -> tuple[TrainerArguments, Termination, list[Callback]]:
    """Return what takes the trainer's arguments over, which it has done, what ends a run, and all to be added."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
    arguments, termination = the_one(TrainerArguments, callbacks), the_one(Termination, callbacks)
    errors = the_one(CheckpointErrors, callbacks)
    arguments.take_over(trainer)
    rename_for_files(trainer.loggers)
    own = [callback for callback in (arguments, termination, errors) if callback not in callbacks]
    return arguments, termination, [*replacements(callbacks), *own]


def the_one(kind: type[Kept], callbacks: list[Callback]) -> Kept:
    """Return the callback of a kind among a trainer's, which an earlier run has left there, or a new one."""
    return next((callback for callback in callbacks if isinstance(callback, kind)), None) or kind()
