"""The symptom of a task that does not learn while others do: its loss stays that of a constant prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from mtl_lightning.callbacks.diagnosis import Remembering, multi_task, rate_of
from mtl_lightning.callbacks.mean_losses import MeanLosses
from mtl_lightning.core import MultiTaskModule

_FIRST = 10  # updates whose mean loss the later ones are compared with
_LEARNS = 0.9  # of the loss of a constant: a task below has learned something
_STILL_FALLS = 0.99  # of the loss some validations ago


class LearningSpeed(Remembering):
    """Measures how far each task has come: ``watch/learned/<task>``, the relative decrease of its training loss.

    It is 1 - (mean loss of the last ``every_n_steps`` updates) / (mean loss of the first 10): 0 is no progress, 1 all
    there is, below 0 worse than at the start. Losses in different units can be compared by it.

    One warning (:class:`~mtl_lightning.types.MtlLightningWarning`) per task and run says that a task is *left behind*:
    in ``patience`` validations in a row its loss is no lower than that of the best constant prediction, and does not
    fall, while some other task's is a tenth lower or more. The decrease alone would not do: a target that is mostly
    noise has little to fall by, and yet no more than a constant's loss. Both losses are of the same rows, so that the
    noise of the split is in both; that a task without any signal comes out at 1 or above as often as not is why several
    validations have to agree. A task that overfits is another matter, see
    :class:`~mtl_lightning.callbacks.Overfitting`: a training loss below nine tenths of a constant's is no task left
    behind. Without validations there are values and no warnings.

    Args:
        every_n_steps: a value is written for every update whose number this divides; 0 switches the callback off.
        patience: number of validations that have to agree.
        after: number of updates before any validation counts: a task may start late.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    fresh: ClassVar[Mapping[str, Any]] = {"first": {}, "training": {}, "behind": {}}
    """Each task's first mean loss, its last one, and its normalised losses in the validations that found it behind."""

    def __init__(self, every_n_steps: int = 50, patience: int = 5, after: int = 400) -> None:
        super().__init__(every_n_steps)
        self.patience, self.after = patience, after
        self._losses = MeanLosses()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to add up."""
        self._losses = MeanLosses()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add an update."""
        if self.every_n_steps:
            self._losses.add(multi_task(pl_module, self))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a window, write what it has shown."""
        number = trainer.global_step
        if not self.every_n_steps or not self._losses.updates:
            return
        is_first = number == _FIRST < self.every_n_steps
        if not is_first and number % self.every_n_steps:
            return
        module, first = multi_task(pl_module, self), self.seen["first"]
        means = self._losses.read(module)
        for name, mean in means.items():
            first.setdefault(name, mean)
        self.seen["training"].update(means)
        if not is_first:
            learned = {name: 1 - mean / first[name] for name, mean in means.items() if first[name] > 0}
            self.write(module, {f"watch/learned/{name}": value for name, value in learned.items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for tasks that are left behind."""
        module = multi_task(pl_module, self)
        if not self.every_n_steps or not self.patience or not module.validations.in_training:
            return
        if trainer.global_step < self.after:
            return
        ratios = {name: float(ratio) for name, ratio in module.evaluations.normalised.get("val", {}).items()}
        for name, ratio in ratios.items():
            best = min((other for task, other in ratios.items() if task != name), default=1.0)
            behind = self.seen["behind"].setdefault(name, [])
            if ratio < 1 or best > _LEARNS or self._fits(trainer, name, ratio):
                behind.clear()
                continue
            behind.append(ratio)
            del behind[: -self.patience]
            if len(behind) == self.patience and behind[-1] >= _STILL_FALLS * behind[0]:
                self._warn(module, name, ratio, best)

    def _fits(self, trainer: Trainer, name: str, ratio: float) -> bool:
        """Whether the training loss is well below that of a constant prediction."""
        known = trainer.callback_metrics.get(f"val/loss/{name}")
        training = self.seen["training"].get(name)
        return known is not None and training is not None and training < _LEARNS * float(known) / ratio

    def _warn(self, module: MultiTaskModule, name: str, ratio: float, best: float) -> None:
        rate = f", now {rate_of(module, name):g}" if name in module.group_optimizers else ""
        self.warn_once(
            module,
            [name],
            f"Task {name} is left behind: in epoch {module.current_epoch} its validation loss is {ratio:.3g} times "
            f"that of a constant prediction, and no longer falls, while the best task's is at {best:.3g}. See "
            f"`train/loss/{name}`: if it jumps, lower the rate of `optimizers.{name}`{rate}; if it creeps, raise it, "
            "or the task's weight (`model.balancer`). If it does neither, look at its labels.",
        )
