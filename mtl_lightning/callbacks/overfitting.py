"""The symptom of too few rows, or too many epochs: a task's validation loss rises while its training loss falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from mtl_lightning.callbacks.diagnosis import Remembering, multi_task
from mtl_lightning.callbacks.mean_losses import MeanLosses
from mtl_lightning.core import MultiTaskModule

_SIGMAS = 3.0  # of Kendall's statistic, one-sided: once in 700 times by chance


class Overfitting(Remembering):
    """Watches each task's validation loss rise while its training loss falls, and says so once, with the epoch.

    One warning (:class:`~mtl_lightning.types.MtlLightningWarning`) per task and run, if all of this holds:

    - ``patience`` validations or more have followed the one with the lowest loss, and all of the last ``patience`` are
      above it by ``margin``: the lowest of many is low by luck as well.
    - They rise: Kendall's rank correlation of the loss with time, since the lowest, is positive beyond chance (the
      Mann-Kendall test at three standard deviations, which no fewer than 7 values reach), so that a loss that only
      jumps up and down is none that rises.
    - The mean training loss has fallen since then.

    ``watch/overfit/<task>`` is the validation loss over the lowest one so far, less 1: 0 while it is still falling. It
    is written at each validation. Tasks that are in several validation dataloaders are left out.

    Args:
        patience: number of validations that the lowest loss has to lie back; 0 switches the callback off.
        margin: share of the lowest loss that the later ones are above it.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    fresh: ClassVar[Mapping[str, Any]] = {"lowest": {}, "epoch": {}, "training": {}, "since": {}}
    """Of each task: its lowest validation loss, the epoch and the training loss of then, and the validations since."""

    def __init__(self, patience: int = 8, margin: float = 0.05) -> None:
        super().__init__(every_n_steps=1)
        self.patience, self.margin = patience, margin
        self._losses = MeanLosses()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to add up."""
        self._losses = MeanLosses()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add an update."""
        if self.patience:
            self._losses.add(multi_task(pl_module, self))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the validation with those before it."""
        module = multi_task(pl_module, self)
        if not self.patience or not module.validations.in_training:
            return
        values = {}
        for name, training in self._losses.read(module).items():
            found = trainer.callback_metrics.get(f"val/loss/{name}")
            if found is not None and math.isfinite(found):
                values[f"watch/overfit/{name}"] = self._judge(module, name, float(found), training)
        if values:
            self.write(module, values)

    def _judge(self, module: MultiTaskModule, name: str, loss: float, training: float) -> float:
        """Note a task's losses, warn of them, and return by how much the validation loss is above the lowest one."""
        lowest, since = self.seen["lowest"], self.seen["since"]
        if name not in lowest or loss < lowest[name]:
            lowest[name], since[name] = loss, []
            self.seen["epoch"][name], self.seen["training"][name] = module.current_epoch, training
            return 0.0
        since[name].append(loss)
        least, before = lowest[name] + self.margin * abs(lowest[name]), self.seen["training"][name]
        late = since[name][-self.patience :]
        if (
            len(late) == self.patience
            and min(late) > least
            and training < before
            and rises([lowest[name], *since[name]])
        ):
            self.warn_once(
                module,
                [name],
                f"Task {name} overfits since epoch {self.seen['epoch'][name]}: its validation loss was "
                f"{lowest[name]:.3g} then and is {loss:.3g} now, in epoch {module.current_epoch}, while the training "
                f"loss has fallen from {before:.3g} to {training:.3g}. Stop there (`early_stopping: 5`; the "
                "best epoch is kept), or use more rows, a smaller `model.architecture`, `dropout`, or `weight_decay` "
                "in `optimizers`.",
            )
        return loss / lowest[name] - 1 if lowest[name] > 0 else 0.0


def rises(values: Sequence[float]) -> bool:
    """Whether a series rises beyond chance: the Mann-Kendall test at three standard deviations.

    The statistic is the number of pairs in order less that of pairs out of order; of n values without a trend its
    variance is n (n - 1) (2 n + 5) / 18.
    """
    series, n = torch.tensor(values, dtype=torch.float64), len(values)
    order = torch.triu((series.unsqueeze(0) - series.unsqueeze(1)).sign(), diagonal=1).sum().item()
    return order - 1 > _SIGMAS * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
