"""A matrix as a grey picture, for the loggers that take pictures."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from mtl_lightning.core.update.figures import png

_SIDE = 256  # pixels that a picture has at least


def write_picture(tag: str, matrix: Tensor, trainer: Trainer) -> None:
    """Give a matrix (R, C), 0 black and 1 white, to every logger that takes pictures, at the last update's step."""
    if not trainer.is_global_zero:
        return
    each = max(1, -(-_SIDE // min(matrix.shape)))
    grey = (matrix.detach().cpu().clamp(0, 1) * 255).round().byte()
    picture = grey.repeat_interleave(each, 0).repeat_interleave(each, 1).numpy()
    step = max(trainer.global_step - 1, 0)
    for logger in trainer.loggers:
        draw = getattr(logger, "log_image", None)
        if isinstance(logger, TensorBoardLogger):
            height, width = picture.shape
            image = Summary.Image(height=height, width=width, colorspace=1, encoded_image_string=png(picture))
            logger.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
        elif callable(draw):
            draw(key=tag, images=[picture], step=step)
