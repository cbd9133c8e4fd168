"""Whether a test's probabilities are met, and its intervals hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.callbacks.drawing import reliability
from mtl_lightning.callbacks.groups import Groups
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.evaluation import DerivedMetrics
from mtl_lightning.core.spectators import Spectator
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.core.update.figures import takes_pictures, write_picture
from mtl_lightning.metrics import BrierScore, ExpectedCalibrationError, IntervalCoverage, IntervalWidth
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import Batch

_MISSING = -100
_Measure: TypeAlias = ExpectedCalibrationError | BrierScore | IntervalCoverage | IntervalWidth


class CalibrationMetrics(Ranged, DerivedMetrics, Spectator):
    """Adds to a test, of each task, how far what it says can be believed; and draws it.

    ``test/ece/<task>``, the expected calibration error in 15 bins, and ``test/brier/<task>``, the Brier score, of
    classes and of yes-or-no labels; ``test/coverage/<task>`` and ``test/interval_width/<task>`` (in the target's units)
    of numbers whose network is calibrated. All are of calibrated outputs, where there is a calibration, with sample
    weights, over all dataloaders and processes. ``test/reliability/<task>`` is a picture: the share of rows in which a
    probability is met, against the probability. Of pictures with a class per pixel, at most 1,024 pixels each are
    looked at.

    Args:
        enabled: false: computes nothing.

    Raises:
        ConfigurationError: at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._metrics: dict[str, dict[str, _Measure]] = {}
        self._found: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier test."""
        multi_task(pl_module, self)
        self._metrics, self._found = {}, {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew, on all processes with the same metrics."""
        module = multi_task(pl_module, self)
        self._metrics = {name: self._of(module, name) for name in module.tasks} if self.enabled else {}

    def _of(self, module: MultiTaskModule, name: str) -> dict[str, _Measure]:
        methods, options = module.tasks[name].calibrated_by, {"sync_on_compute": False}  # all at once, below
        made: dict[str, _Measure] = {}
        if "conformal" not in methods:
            made = {"ece": ExpectedCalibrationError(**options), "brier": BrierScore(**options)}
        elif name in (module.calibration or {}):
            made = {"coverage": IntervalCoverage(**options), "interval_width": IntervalWidth(**options)}
        return {key: metric.to(module.device) for key, metric in made.items() if methods}

    def see(
        self, module: LightningModule, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int
    ) -> None:
        """Add the rows of a batch of a test."""
        network = multi_task(module, self)
        for name, target in targets_of(batch).items() if stage == "test" else ():
            if not self._metrics.get(name):
                continue
            task, weight = network.tasks[name], weight_of(batch, name)
            found, truth, known = task.calibration_rows(network.calibrated(name, outputs[name].detach()), target)
            sizes = torch.ones(len(target), device=found.device) if weight is None else weight
            sizes = sizes.repeat_interleave(len(found) // max(len(target), 1))
            given: tuple[Any, ...]
            if "ece" in self._metrics[name]:
                given = _probabilities(found, truth, known, task.calibrated_by, sizes)
            else:
                widths = self._widths(network, name, batch).to(found.device, found.dtype).expand(found.shape)
                sizes = sizes[:, None].expand(found.shape)
                given = tuple(part[known] for part in (found - widths, found + widths, truth.to(found), sizes))
            for metric in self._metrics[name].values() if len(given[-1]) else ():
                metric.update(*given)

    def _widths(self, module: MultiTaskModule, name: str, batch: Batch) -> Tensor:
        """Return the half-widths (B, K), or (1, K), of the intervals of a batch's rows."""
        known = (module.calibration or {})[name]
        if not known.get("groups"):
            return torch.tensor([known["half_width"]], dtype=torch.float64)
        groups = Groups.of(module, known["by"])
        return groups.widths(groups.codes(batch["inputs"]), known)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the metrics, over all processes, and draw the probabilities."""
        module = multi_task(pl_module, self)
        loggers = [logger for logger in trainer.loggers if trainer.is_global_zero and takes_pictures(logger)]
        self._found = {}
        for name, metrics in self._metrics.items():
            for key, metric in metrics.items():
                metric.sums = module.runtime.all_sum(metric.sums)
                if float(metric.sums.sum()) > 0:  # else nothing was labelled
                    self._found[f"test/{key}/{name}"] = metric.compute()
                    if isinstance(metric, ExpectedCalibrationError):
                        said, met, share = (part.cpu() for part in metric.curve())
                        picture = reliability(said, met, share, f"{name}: probability said, and met")
                        for logger in loggers:
                            write_picture(logger, f"test/reliability/{name}", picture, max(trainer.global_step - 1, 0))
        self._metrics = {}

    def derive(self, module: LightningModule, stage: str, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the metrics of a test."""
        return self._found if stage == "test" else {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of what was seen."""
        self._metrics = {}


def _probabilities(
    logits: Tensor, truth: Tensor, known: Tensor, methods: tuple[str, ...], sizes: Tensor
) -> tuple[Tensor, ...]:
    """Return probabilities, labels and weights of labelled rows, as the metrics take them."""
    some = known.any(1) & (sizes > 0)
    if "temperature" in methods:
        return logits[some].softmax(1), truth[some, 0].long(), sizes[some]
    labels = torch.where(known, truth, _MISSING).long()
    return logits[some].sigmoid(), labels[some], sizes[some]
