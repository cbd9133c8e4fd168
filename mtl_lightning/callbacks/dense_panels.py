"""Pictures beside what they should be and what they are taken for."""

from __future__ import annotations

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mtl_lightning.callbacks.drawing import above, beside, coloured, grey_or_rgb, numbers, vectors, with_title
from mtl_lightning.callbacks.figures import Rows, ValidationFigures, classes_of, resized
from mtl_lightning.core.update.figures import write_picture
from mtl_lightning.tasks.base import Task

_SIDE = 160  # pixels that a picture has at most


class DensePanels(ValidationFigures):
    """Draws some pictures of each task with labels per pixel in validations: ``val/panels/<task>``.

    Each row is one picture: the input (if it has 1 or 3 channels), the target, the prediction. Classes have colours of
    their own, numbers one scale for target and prediction, vectors (surface normals) are mixed of red, green and blue;
    pixels without a label are black. They are the same pictures in every validation, unless it shuffles its rows.

    With several processes the pictures are those of the first. Loggers that take no pictures get nothing.

    Args:
        pictures: so many of each task.
        every_n_validations: draws in every validation whose number this divides; 0 switches the callback off.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def __init__(self, pictures: int = 4, every_n_validations: int = 1) -> None:
        super().__init__(pictures, every_n_validations)
        self.pictures = pictures

    def take(self, task: Task, rows: Rows) -> tuple[Tensor, ...] | None:
        """Take inputs (N, C, H, W), which may be empty, targets, predictions and the mask, all reduced in size."""
        found = classes_of(rows)
        predicted = found[1] if found is not None else rows.prediction
        if not isinstance(predicted, Tensor) or predicted.dim() < 3 or rows.labelled.dim() != 3:
            return None
        target = rows.target[:, 0] if rows.target.dim() == 4 and rows.target.shape[1] == 1 else rows.target
        if target.dim() != predicted.dim():
            return None
        height, width = target.shape[-2:]
        factor = max(1.0, max(height, width) / _SIDE)
        size = (max(1, int(height / factor)), max(1, int(width / factor)))
        kept = tuple(resized(one, size) for one in (target, predicted, rows.labelled))
        inputs = rows.inputs if isinstance(rows.inputs, Tensor) and rows.inputs.dim() == 4 else None
        shown = inputs is not None and inputs.shape[1] in (1, 3) and inputs.is_floating_point()
        picture = resized(inputs, size) if inputs is not None and shown else torch.zeros(len(target), 0, *size)
        return (picture, *kept)

    def draw(self, loggers: list[Logger], name: str, task: Task, kept: tuple[Tensor, ...], step: int) -> None:
        """Draw a row for each picture."""
        rows = []
        for inputs, target, predicted, labelled in zip(*(part[: self.pictures] for part in kept), strict=True):
            if target.dim() == 3:
                maps = [vectors(target), vectors(predicted)]
            elif predicted.is_floating_point():
                known = target[labelled]
                maps = [numbers(one, float(known.min()), float(known.max())) for one in (target, predicted)]
            else:
                maps = [coloured(one, task.output_size) for one in (target, predicted)]
            maps[0][~labelled.numpy()] = 0
            rows.append(beside([*([grey_or_rgb(inputs)] if len(inputs) else []), *maps]))
        times = max(1, _SIDE // max(kept[1].shape[-2:]))
        whole = above(rows).repeat(times, 0).repeat(times, 1)
        words = "input, target, prediction" if kept[0].shape[1] else "target, prediction"
        for logger in loggers:
            write_picture(logger, f"val/panels/{name}", with_title(whole, f"{name}: {words}"), step)
