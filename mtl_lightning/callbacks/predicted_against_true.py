"""Predicted numbers against true ones."""

from __future__ import annotations

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mtl_lightning.callbacks.drawing import beside, points
from mtl_lightning.callbacks.figures import Rows, ValidationFigures, like, names_of
from mtl_lightning.core.update.figures import write_picture
from mtl_lightning.tasks.base import Task

_OUTPUTS = 8  # at most so many plots a task
_PIXELS = 64  # of a picture


class PredictedAgainstTrue(ValidationFigures):
    """Plots predicted numbers (up) against true ones (right) in validations, in original units.

    The picture's tag is ``val/predicted/<task>``. On the diagonal both are equal. A plot for each output of a vector, 8
    at most; of maps of numbers, such as depth, 64 pixels of each picture. The axes reach over the true values and as
    far again to both sides; predictions beyond are drawn at the edge.

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
        """Take true and predicted numbers (N, D), with nan for unknown ones."""
        predicted, target = rows.prediction, rows.target
        if not isinstance(predicted, Tensor) or not predicted.is_floating_point():
            return None
        predicted = like(predicted, target)
        if predicted.numel() != target.numel() or predicted.numel() != rows.labelled.numel():
            return None  # vectors of a pixel
        truth = torch.where(rows.labelled.reshape(predicted.shape), target.reshape(predicted.shape), torch.nan)
        if predicted.dim() > 2:
            step = max(1, -(-predicted[0].numel() // _PIXELS))
            truth, predicted = (one.flatten(1)[:, ::step].flatten() for one in (truth, predicted))
        return tuple(one.cpu().double().reshape(len(one), -1) for one in (truth, predicted))

    def draw(self, loggers: list[Logger], name: str, task: Task, kept: tuple[Tensor, ...], step: int) -> None:
        """Draw a plot for each column."""
        truth, predicted = kept
        names, plots = names_of(task, truth.shape[1]), []
        for column in range(min(truth.shape[1], _OUTPUTS)):
            known = truth[:, column].isfinite() & predicted[:, column].isfinite()
            if bool(known.any()):
                title = name if truth.shape[1] == 1 else f"{name} {names[column]}"
                title += f" ({task.spec.units})" if task.spec.units else ""
                plots.append(points(truth[known, column], predicted[known, column], title))
        for logger in loggers if plots else ():
            write_picture(logger, f"val/predicted/{name}", beside(plots), step)
