"""Which class is taken for which."""

from __future__ import annotations

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mtl_lightning.callbacks.drawing import heat
from mtl_lightning.callbacks.figures import Rows, ValidationFigures, classes_of, like, names_of
from mtl_lightning.core.update.figures import write_picture
from mtl_lightning.tasks.base import Task

_PIXELS = 512  # of a picture
_CLASSES = 256  # at most


class ConfusionMatrices(ValidationFigures):
    """Draws a confusion matrix of each task with classes in validations, as a picture: ``val/confusion/<task>``.

    A row for each true class, a column for each predicted one; a cell has the number of rows, and is the darker the
    larger its share of the row. Several yes-or-no labels have a row each, and four columns. Of pictures with a class
    per pixel at most 512 pixels each are counted. A task with more than 256 classes has none.

    The rows are spread evenly over the validation split; with several processes they are those of the first, which are
    every n-th of it. Sample weights do not count, but rows of weight 0 are left out. Loggers that take no pictures get
    nothing; for exact figures give a task torchmetrics' ``ConfusionMatrix`` as a metric.

    Args:
        rows: about so many rows are drawn; all, where there are fewer.
        every_n_validations: draws in every validation whose number this divides; 0 switches the callback off.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def take(self, task: Task, rows: Rows) -> tuple[Tensor, ...] | None:
        """Take true and predicted labels, (N,) or (N, M), with -1 for unknown ones, and the number of classes (N,)."""
        found = classes_of(rows)
        if found is None:
            return None
        probability, label = found[0], like(found[1], rows.target)
        if rows.target.numel() != label.numel():
            return None
        truth = torch.where(rows.labelled.reshape(label.shape), rows.target.reshape(label.shape), -1).long()
        if label.dim() > 2:
            step = max(1, -(-label[0].numel() // _PIXELS))
            truth, label = (one.flatten(1)[:, ::step].flatten() for one in (truth, label))
        classes = 2 if probability.dim() == label.dim() else probability.shape[1]
        if classes > _CLASSES:
            return None
        return truth, label.long(), torch.full((1,), classes)

    def draw(self, loggers: list[Logger], name: str, task: Task, kept: tuple[Tensor, ...], step: int) -> None:
        """Count, and draw."""
        truth, label, sizes = kept
        classes = int(sizes[0])
        if truth.dim() == 2:
            counts = torch.stack([_counts(t, p, 2).flatten() for t, p in zip(truth.T, label.T, strict=True)])
            rows, columns = names_of(task, len(counts)), ["0 as 0", "0 as 1", "1 as 0", "1 as 1"]
        else:
            counts = _counts(truth, label, classes)
            rows = columns = names_of(task, classes)
        picture = heat(counts, rows, columns, f"{name}: true class (row), predicted (column)")
        for logger in loggers:
            write_picture(logger, f"val/confusion/{name}", picture, step)


def _counts(truth: Tensor, label: Tensor, classes: int) -> Tensor:
    """Return how often each class (row) is taken for each (column), where the true one is known: (K, K)."""
    known = truth >= 0
    return (truth[known] * classes + label[known]).bincount(minlength=classes**2).reshape(classes, classes)
