"""A matrix as a grey picture, for the loggers that take pictures."""

from __future__ import annotations

from lightning.pytorch import Trainer
from torch import Tensor

from mtl_lightning.core.update.figures import takes_pictures, write_picture

_SIDE = 256  # pixels that a picture has at least


def write_grey(tag: str, matrix: Tensor, trainer: Trainer) -> None:
    """Give a matrix (R, C), 0 black and 1 white, to every logger that takes pictures, at the last update's step."""
    if not trainer.is_global_zero:
        return
    each = max(1, -(-_SIDE // min(matrix.shape)))
    grey = (matrix.detach().cpu().clamp(0, 1) * 255).round().byte()
    picture = grey.repeat_interleave(each, 0).repeat_interleave(each, 1).numpy()
    for logger in filter(takes_pictures, trainer.loggers):
        write_picture(logger, tag, picture, max(trainer.global_step - 1, 0))
