"""Precision against recall, for every threshold: of yes-or-no labels, and of each class against all others."""

from __future__ import annotations

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from mtl_lightning.callbacks.figures import Rows, ValidationFigures, classes_of, names_of
from mtl_lightning.tasks.base import Task

_CLASSES = 20  # at most so many curves a task


class PRCurves(ValidationFigures):
    """Writes TensorBoard's own precision-recall curves in validations: ``val/pr_curve/<task>``, and ``.../<class>``.

    Of every task that predicts probabilities of labels: one curve for a yes-or-no label, one for each of several labels
    or classes, 20 at most. A class that no row of the sample is of has none. Other loggers get nothing.

    The rows are spread evenly over the validation split; with several processes they are those of the first, which are
    every n-th of it. Sample weights do not count, but rows of weight 0 are left out.

    Args:
        rows: about so many rows are drawn; all, where there are fewer.
        every_n_validations: draws in every validation whose number this divides; 0 switches the callback off.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def serves(self, logger: Logger) -> bool:
        """TensorBoard alone."""
        return isinstance(logger, TensorBoardLogger)

    def take(self, task: Task, rows: Rows) -> tuple[Tensor, ...] | None:
        """Take probabilities (N, M), labels (N, M) of 0 and 1, and which are known (N, M)."""
        found = classes_of(rows)
        if found is None or found[1].dim() > 2:
            return None
        probability, label = found
        if probability.shape == label.shape:
            size = label.reshape(len(label), -1).shape
            return probability.reshape(size), rows.target.reshape(size) == 1, rows.labelled.reshape(size)
        probability = probability[:, :_CLASSES]
        truth = rows.target.reshape(-1, 1) == torch.arange(probability.shape[1], device=probability.device)
        return probability, truth, rows.labelled.reshape(-1, 1).expand_as(truth)

    def draw(self, loggers: list[Logger], name: str, task: Task, kept: tuple[Tensor, ...], step: int) -> None:
        """Write a curve for each column."""
        probability, truth, known = kept
        names = names_of(task, len(task.spec.names) or max(task.output_size, probability.shape[1]))
        for column in range(min(probability.shape[1], _CLASSES)):
            mask = known[:, column]
            labels, predicted = truth[mask, column], probability[mask, column]
            tag = f"val/pr_curve/{name}" + (f"/{names[column]}" if probability.shape[1] > 1 else "")
            for logger in loggers if bool(labels.any()) else ():
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_pr_curve(tag, labels.int(), predicted.float(), step)
