"""Validations across a resume, and the metrics that wait for them.

Lightning leaves a validation out when it resumes from a checkpoint that was written before it, or in it, and so plateau
schedulers, early stopping and the choice of the best checkpoint miss an epoch. Relies on the counters of the loops in a
checkpoint (``fit_loop.state_dict()``: ``epoch_loop.batch_progress``, ``epoch_loop.val_loop.batch_progress``), on
``FitLoop.epoch_loop``, ``batch_idx`` and ``total_batch_idx``, and on ``Trainer.callback_metrics``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import Trainer

from mtl_lightning.core.optim.schedules import CompositeScheduler
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.best_validation import BestValidation


class Validations:
    """Knows whether the batch last trained on has had its validation, and which metrics are from before this epoch.

    Attributes:
        best: the best validation so far.
    """

    process_only: ClassVar[tuple[str, ...]] = ()

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.best = BestValidation()
        self._done = False
        self._metrics_before: Mapping[str, Any] = {}

    @property
    def in_training(self) -> bool:
        """Whether a validation belongs to training: it is not asked for by itself, nor a check before the start."""
        trainer = self._runtime.trainer
        return trainer.state.fn == "fit" and not trainer.sanity_checking

    def start_batch(self) -> None:
        """Note that a batch is trained on, whose validation is yet to come."""
        self._done = False

    def start_epoch(self) -> None:
        """Remember the metrics of earlier epochs, which no plateau scheduler is to take for new ones."""
        if not self._runtime.trainer.global_step:  # of an earlier run
            self.best.forget()
        self._metrics_before = dict(self._runtime.trainer.callback_metrics)

    def finish(self, scheduler: object) -> None:
        """Note the end of a validation in a fit; on the epoch's last batch, step the plateau schedulers."""
        self.best.look(self._runtime.trainer)
        if self._runtime.trainer.is_last_batch:
            self.step_plateaus(scheduler)
        self._done = True

    def step_plateaus(self, scheduler: object) -> None:
        """Step the plateau schedulers whose metric is new in this epoch; does nothing if ``scheduler`` is not ours."""
        if not isinstance(scheduler, CompositeScheduler):
            return
        trainer = self._runtime.trainer
        epoch, every = trainer.current_epoch, trainer.check_val_every_n_epoch
        must_be_known = not trainer.validating and (every is None or (epoch + 1) % every == 0)
        scheduler.step_plateaus(epoch, trainer.callback_metrics, self._metrics_before, must_be_known)

    # ---------------------------------------------------------------------------------------------------------- resume
    def is_due(self) -> bool:
        """Whether the batch that was last trained on is followed by a validation that is not over.

        Validations by the clock (``val_check_interval`` as a time) are not foreseen.
        """
        trainer = self._runtime.trainer
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if self._done or trainer.sanity_checking or not done.processed or done.processed != done.ready:
            return False
        return trainer.validating or _validates_after_this_batch(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics that callbacks look at, whether a validation is over, and the best one.

        There is no state of a started validation: it is run again from its beginning.
        """
        metrics = self._runtime.trainer.callback_metrics
        return {
            "metrics": {name: torch.as_tensor(value).detach().cpu() for name, value in metrics.items()},
            "earlier_metrics": [name for name, value in metrics.items() if value is self._metrics_before.get(name)],
            "validated": self._done,
            "best": self.best.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        metrics = {name: value.to(self._runtime.device) for name, value in state["metrics"].items()}
        self._runtime.trainer.callback_metrics.update(metrics)
        self._metrics_before = {name: metrics[name] for name in state["earlier_metrics"]}
        self._done = state["validated"]
        self.best.load_state_dict(state.get("best", {}))


def _validates_after_this_batch(trainer: Trainer) -> bool:
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    this_epoch = every is None or (trainer.current_epoch + 1) % every == 0
    if not trainer.enable_validation or not this_epoch or interval is None:
        return False
    if interval == float("inf"):
        return trainer.is_last_batch
    index = trainer.fit_loop.total_batch_idx if every is None else trainer.fit_loop.batch_idx
    return (index + 1) % interval == 0


def plan_validation(loops: dict[str, Any], due: bool) -> None:
    """Make the saved counters of the loops say that a due validation has begun: Lightning then runs it as a whole.

    Args:
        loops: Lightning's part of a checkpoint, changed in place.
        due: whether a validation is due; if not, the counters are made to say so, too.
    """
    training, validation = (loops["fit_loop"][f"epoch_loop.{name}batch_progress"] for name in ("", "val_loop."))
    total = validation["total"]
    if due:
        for counts in (training["total"], training["current"]):
            counts["completed"] = counts["processed"]
        total.update(ready=1, started=1, processed=0, completed=0)
        validation["current"].update(ready=0, started=0, processed=0, completed=0)
    else:
        total.update(dict.fromkeys(total, total["completed"]))
