"""What a constant prediction reaches in a test, metric by metric: what to hold the network's own figures against."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.core.constants import ConstantEvaluation
from mtl_lightning.core.evaluation import Evaluations
from mtl_lightning.core.spectators import Spectator
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import Batch


class ConstantMetrics(Ranged, Spectator):
    """Scores the best constant of each task in a test, by the task's own metrics on the same rows.

    An accuracy of 0.9 is nothing where 0.9 of the rows are of one class. The constant is the one that
    ``loss_normalised`` compares with, fitted to training labels: the shares of the classes, which make the majority the
    prediction; the mean for squared errors, the median for absolute ones. Weights of classes, which belong to the loss,
    do not move it. The table at the end of a run of the command line shows each value in brackets.

    It costs what the test's metrics cost, once more; nothing in training. A network that was never trained has no
    constant, and so no values.

    Args:
        enabled: whether anything is computed.

    Attributes:
        values: after a test, the constants' metrics by the tags of the network's: ``{"test/accuracy/left": 0.1}``; the
            same on all processes.

    Raises:
        ConfigurationError: at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.values: dict[str, float] = {}
        self._evaluations: Evaluations | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier test."""
        multi_task(pl_module, self)
        self.values, self._evaluations = {}, None

    def see(
        self, module: LightningModule, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int
    ) -> None:
        """Add a batch of a test."""
        network = multi_task(module, self)
        if self.enabled and stage == "test" and network.trivial_predictions is not None:
            if self._evaluations is None:
                self._evaluations = Evaluations(network, network.runtime, ConstantEvaluation)
            self._evaluations.add(stage, batch, outputs, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the metrics, over all processes."""
        if self._evaluations is not None:
            found = self._evaluations.compute("test", trainer.test_dataloaders)
            self.values = {tag: float(value) for tag, value in found.items() if not value.dim()}
        self._evaluations = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of what was seen."""
        self._evaluations = None
