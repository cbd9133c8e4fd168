"""Which validation of a run was the best so far, and its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

MONITOR = "val/loss_normalised"
"""What says which epoch is the best; lower is better. In ``val/loss``, a plain sum, the largest scale decides."""


class BestValidation:
    """The best validation by what the trainer's ``ModelCheckpoint`` monitors, else by ``val/loss_normalised``.

    Attributes:
        monitor: what was looked at last; a name.
        score: its best value; None before there is one that is a number.
        latest: its value in the latest validation, nan if that had none.
        is_latest: whether the latest validation is the best so far.
        epoch: of the best validation, counted from 0.
        update: how many updates there had been.
        metrics: all ``val/...`` of the best validation.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        self.monitor, self.latest = MONITOR, math.nan
        self.score: float | None = None
        self.is_latest = False
        self.epoch = self.update = 0
        self.metrics: dict[str, float] = {}

    def look(self, trainer: Trainer) -> None:
        """Look at the metrics of a validation that has just ended."""
        monitor, sign = _monitored(trainer)
        if monitor != self.monitor:
            self.forget()
            self.monitor = monitor
        found = trainer.callback_metrics
        self.latest = float(found[monitor]) if monitor in found else math.nan
        known = not math.isnan(self.latest)
        self.is_latest = known and (self.score is None or sign * self.latest < sign * self.score)
        if self.is_latest:
            self.score, self.epoch, self.update = self.latest, trainer.current_epoch, trainer.global_step
            self.metrics = {name: float(value) for name, value in found.items() if name.startswith("val/")}

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; nothing, of an older checkpoint."""
        self.forget()
        vars(self).update({name: state[name] for name in vars(self) if name in state})


def _monitored(trainer: Trainer) -> tuple[str, float]:
    """Return what the trainer's checkpoints monitor, and 1 if lower is better, else -1."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and (callback.monitor or "").startswith("val/"):
            return str(callback.monitor), -1.0 if callback.mode == "max" else 1.0
    return MONITOR, 1.0
