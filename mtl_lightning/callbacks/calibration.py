"""Calibrates tasks on the outputs of each validation of a fit: a checkpoint then has what belongs to its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from mtl_lightning.calibration import NotCalibratedError, Options, Rows, Sample, described, fit
from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.callbacks.groups import Groups
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.network.network import at_least_float32
from mtl_lightning.core.spectators import Spectator
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.ranges import Ranged
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, ConfigurationError


class Calibration(Ranged, Spectator):
    """Fits the calibration of each task to the validation split, and leaves it to the checkpoints and to the module.

    When a validation of a fit is over, and before a checkpoint of it is written: every checkpoint has the calibration
    of its own weights, the best one as the last. One that is written between validations has none (``mtl-lightning
    calibrate`` adds it). ``predict``, the figures of a test, exports and predictors then use it; training, losses and
    the figures of validations do not.

    Probabilities of classes are calibrated by a temperature, yes-or-no labels by Platt's line or isotonic regression,
    of what the network gives in the end: a product of two probabilities as the product. Numbers get an interval in
    their own units, which holds the truth in ``coverage`` of the rows (:mod:`mtl_lightning.calibration` names the
    papers). Sample weights count, missing labels do not. A task with too few labels has no calibration, which the last
    line of a fit says.

    With ``by``, rows with the same value of a column of categories get intervals of their own, of the same coverage
    (Mondrian), where there are ``least`` labels or more; others get that of all rows. Where inputs are no table, it is
    an entry of them that holds one integer a row. Isotonic regression can follow any curve, and needs some 1,000 rows.

    It costs no pass over the data, memory for the outputs of ``rows`` rows of each task, spread evenly over the split,
    and a fit of 2 to 100 ms a task after each validation.

    Args:
        enabled: false: fits nothing.
        binary: of yes-or-no labels: a line, or any rising curve.
        coverage: of intervals of numbers.
        by: a column, for intervals by its values.
        rows: of each task, about.
        least: labels that a task needs.

    Attributes:
        reasons: after a validation, why tasks have no calibration, by task; the same on all processes.
        of_any_validation: also after one outside of a fit; what ``mtl-lightning calibrate`` sets.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``; in the
            first validation for a column ``by`` that there is not.
    """

    def __init__(
        self,
        enabled: bool = True,
        binary: Literal["platt", "isotonic"] = "platt",
        coverage: float = 0.9,
        by: str | None = None,
        rows: int = 20_000,
        least: int = 100,
    ) -> None:
        if binary not in ("platt", "isotonic"):
            raise ConfigurationError(f"Calibration: `binary`: expected 'platt' or 'isotonic', found {binary!r}.")
        self.enabled, self.rows = enabled, int(rows)
        self.options = Options(binary=binary, coverage=float(coverage), by=by, least=int(least))
        self.of_any_validation = False
        self.reasons: dict[str, str] = {}
        self._fitted = False  # since the start of the run
        self._versions = 0  # of the weights then
        self._samples: dict[str, Sample] | None = None  # of the validation under way, if it counts
        self._groups: Groups | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier run."""
        multi_task(pl_module, self)
        self.reasons, self._samples, self._fitted = {}, None, False

    # --------------------------------------------------------------------------------------------------- a validation
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        module, self._samples = multi_task(pl_module, self), None
        if self.enabled and (module.validations.in_training or self.of_any_validation) and not trainer.sanity_checking:
            self._samples = {name: Sample(self.rows) for name, task in module.tasks.items() if task.calibrated_by}
            self._groups = None if self.options.by is None else Groups.of(module, self.options.by)

    def see(
        self, module: LightningModule, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int
    ) -> None:
        """Add the rows of a batch."""
        if stage != "val" or self._samples is None:
            return
        tasks = multi_task(module, self).tasks
        group = None if self._groups is None else self._groups.codes(batch["inputs"])
        for name, target in targets_of(batch).items():
            if name in self._samples:
                task, weight = tasks[name], weight_of(batch, name)
                rows = task.calibration_rows(at_least_float32(outputs[name].detach()), target)
                times = len(rows[0]) // max(len(target), 1)  # pixels of a picture
                each = (None if one is None else one.repeat_interleave(times) for one in (weight, group))
                self._samples[name].add(*rows, *each)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, before a checkpoint is written."""
        if self._samples is None:
            return
        module, samples = multi_task(pl_module, self), self._samples
        self._samples, self._fitted = None, True
        found: tuple[dict[str, Any], dict[str, str]] = {}, {}
        for name, sample in samples.items():
            rows = _of_all_processes(sample.rows(), trainer)
            if rows is not None:
                self._fit(name, module.tasks[name], rows, found)
        calibration, self.reasons = trainer.strategy.broadcast(found)
        module.calibration, self._versions = calibration or None, _versions(module)

    def _fit(self, name: str, task: Task, rows: Rows, found: tuple[dict[str, Any], dict[str, str]]) -> None:
        calibration, reasons = found
        name_of = (lambda _: None) if self._groups is None else self._groups.name_of
        try:
            calibration[name] = fit(task, rows, self.options, name_of)
        except NotCalibratedError as reason:
            reasons[name] = str(reason)

    def _forget_of_others(self, module: MultiTaskModule) -> None:
        """Drop a calibration of weights that something has changed since, such as a mean of several epochs'."""
        if self._fitted and self._versions != _versions(module):
            module.calibration = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop what is of other weights."""
        self._forget_of_others(multi_task(pl_module, self))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop what is of other weights, before the module writes it."""
        self._forget_of_others(multi_task(pl_module, self))

    # -------------------------------------------------------------------------------------------------- what is said
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the last weights' calibration is, and of which tasks there is none."""
        self._forget_of_others(multi_task(pl_module, self))
        if self._fitted:
            rank_zero_info(self.summary(multi_task(pl_module, self)))

    def summary(self, module: MultiTaskModule) -> str:
        """Say in a line what the module's calibration is, and of which tasks there is none, and why."""
        known = module.calibration or {}
        if module.calibration is None and not self.reasons:
            return "Calibration: none, since these weights have had no validation."
        parts = [f"{name}: {described(known[name], module.tasks[name].spec.units)}" for name in known]
        parts += [f"{name}: none, since {why}" for name, why in self.reasons.items() if name not in known]
        return f"Calibration, on the rows of the validation: {'; '.join(parts)}."

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of what was seen."""
        self._samples = None


def _versions(module: MultiTaskModule) -> int:
    """Return how often weights were written to, in all."""
    return sum(parameter._version for parameter in module.parameters())


def _of_all_processes(rows: Rows, trainer: Trainer) -> Rows | None:
    """Return the rows of all processes, on the first one; None on the others."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return rows
    parts: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    dist.gather_object(rows if len(rows.weight) else None, parts)
    if parts is None:
        return None
    some = [part for part in parts if part is not None]
    return Rows(*(torch.cat(part) for part in zip(*some, strict=True))) if some else rows
