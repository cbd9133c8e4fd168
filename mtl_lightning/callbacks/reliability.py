"""Probabilities that are met as often as they say, or not: reliability diagrams."""

from __future__ import annotations

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mtl_lightning.callbacks.drawing import reliability
from mtl_lightning.callbacks.figures import Rows, ValidationFigures, classes_of, like
from mtl_lightning.core.update.figures import write_picture
from mtl_lightning.metrics import ExpectedCalibrationError
from mtl_lightning.tasks.base import Task

_PIXELS = 512  # of a picture


class ReliabilityDiagrams(ValidationFigures):
    """Draws how often predicted probabilities are met in validations: ``val/reliability/<task>``.

    Of every task that predicts probabilities of labels: in each of 15 bins the share of rows in which it is met (up)
    against the probability (right), on the diagonal where both are equal, and in grey how many rows are in it. Of
    yes-or-no labels the probability is that of a yes; of classes that of the likeliest. The probabilities are the
    network's own, as they are in training: what a calibration makes of them, a test draws (``CalibrationMetrics``).

    The rows are spread evenly over the validation split; with several processes they are those of the first, which are
    every n-th of it. Sample weights do not count, but rows of weight 0 are left out. Loggers that take no pictures get
    nothing.

    Args:
        rows: about so many rows are drawn; all, where there are fewer.
        every_n_validations: draws in every validation whose number this divides; 0 switches the callback off.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def take(self, task: Task, rows: Rows) -> tuple[Tensor, ...] | None:
        """Take probabilities (N,), and whether each is met (N,)."""
        found = classes_of(rows)
        if found is None:
            return None
        probability, label = found
        if probability.shape == label.shape:  # of a yes
            known = rows.labelled.reshape(label.shape)
            return probability[known], (rows.target.reshape(label.shape) == 1)[known]
        said, label = (like(one, rows.target) for one in probability.max(1))
        if rows.target.numel() != label.numel():
            return None
        known, met = rows.labelled.reshape(label.shape), rows.target.reshape(label.shape) == label
        if label.dim() > 2:
            step = max(1, -(-label[0].numel() // _PIXELS))
            known, met, said = (one.flatten(1)[:, ::step].flatten() for one in (known, met, said))
        return said[known], met[known]

    def draw(self, loggers: list[Logger], name: str, task: Task, kept: tuple[Tensor, ...], step: int) -> None:
        """Count, and draw."""
        said, met = kept
        metric = ExpectedCalibrationError(sync_on_compute=False)  # the first process draws alone
        metric.update(said.float(), met.long())
        error = float(metric.compute())
        picture = reliability(*metric.curve(), title=f"{name}: said, and met (ECE {error:.3f})")
        for logger in loggers if torch.isfinite(torch.tensor(error)) else ():
            write_picture(logger, f"val/reliability/{name}", picture, step)
