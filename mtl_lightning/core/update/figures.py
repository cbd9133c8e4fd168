"""What becomes of a metric that is no number: a number for each class, or a picture of a matrix."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torchmetrics import Metric

from mtl_lightning.types import ConfigurationError

_SIDE = 256  # pixels that a picture has at least
_MOST = 1024  # numbers that a logger without pictures is given


def by_tag(tag: str, value: Any, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the numbers () and matrices (R, C) that a metric's value holds, each under a tag.

    Args:
        tag: of the whole.
        value: a tensor (), (N,) or (R, C), or a dict of such.
        names: of the entries of a vector (N,), if there are N; else they are counted from 0.

    Raises:
        ConfigurationError: for anything else, such as the points of a curve.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from by_tag(f"{tag}/{key}", part, names)
    elif isinstance(value, Tensor) and value.numel() == 1:
        yield tag, value.reshape(())
    elif isinstance(value, Tensor) and value.dim() == 1 and len(value):
        labels = names if len(names) == len(value) else range(len(value))
        for label, entry in zip(labels, value.unbind(), strict=True):
            yield f"{tag}/{str(label).replace('/', '_')}", entry
    elif isinstance(value, Tensor) and value.dim() == 2 and value.numel():
        yield tag, value
    else:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigurationError(
            f"The metric {tag!r}: expected a number, a vector with one for each class, or a matrix, found {found}. "
            "Give a metric that makes one number of it, such as the area under a curve."
        )


def check_shape(tag: str, metric: Metric) -> None:
    """Refuse a metric of which it can be seen before any batch that it gives nothing to log."""
    metric.distributed_available_fn = None  # there is nothing to gather from other processes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing has been seen
            value = metric.compute()
    except Exception:  # most metrics can say nothing of nothing
        return
    for _ in by_tag(tag, value, ()):
        pass


def write_matrices(matrices: Mapping[str, Tensor], trainer: Trainer) -> None:
    """Give each matrix (R, C) to every logger: as a picture, each row by its sum, or else entry by entry."""
    if not trainer.is_global_zero or trainer.sanity_checking:
        return
    for logger in trainer.loggers:
        for tag, matrix in matrices.items():
            _write(logger, tag, matrix.detach().double().cpu(), trainer.global_step)


def _write(logger: Logger, tag: str, matrix: Tensor, step: int) -> None:
    if takes_pictures(logger):
        write_picture(logger, tag, _picture(matrix), step)
    elif matrix.numel() <= _MOST:
        entries = {f"{tag}/{r}/{c}": float(e) for r, row in enumerate(matrix) for c, e in enumerate(row)}
        logger.log_metrics(entries, step=step)


def takes_pictures(logger: Logger) -> bool:
    """Whether a logger can be given pictures."""
    return isinstance(logger, TensorBoardLogger) or callable(getattr(logger, "log_image", None))


def write_picture(logger: Logger, tag: str, picture: np.ndarray[Any, Any], step: int) -> None:
    """Give a picture (H, W), or (H, W, 3), uint8 to a logger that takes some."""
    if isinstance(logger, TensorBoardLogger):
        height, width, *colours = picture.shape
        space = 3 if colours else 1
        image = Summary.Image(height=height, width=width, colorspace=space, encoded_image_string=png(picture))
        writer = logger.experiment._get_file_writer()  # `file_writer` is None in a test that follows a fit
        writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
    else:
        logger.log_image(key=tag, images=[picture], step=step)  # type: ignore[attr-defined]  # see `takes_pictures`


def _picture(matrix: Tensor) -> np.ndarray[Any, Any]:
    """Return a grey picture (H, W) uint8 of a matrix: white is 0, black a whole row."""
    shares = matrix.abs() / matrix.abs().sum(1, keepdim=True).clamp(min=1e-12)
    grey = ((1 - shares.clamp(0, 1).nan_to_num()) * 255).round().to(torch.uint8)
    each = max(1, -(-_SIDE // min(grey.shape)))
    return np.ascontiguousarray(grey.repeat_interleave(each, 0).repeat_interleave(each, 1).numpy())


def png(values: np.ndarray[Any, Any]) -> bytes:
    """Return a picture, grey (H, W) or in colours (H, W, 3), uint8, as the bytes of a PNG file
    (`ISO/IEC 15948 <https://www.w3.org/TR/png/>`_).
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, *colours = values.shape
    flat = values.reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), dtype=np.uint8), flat], axis=1)  # each line begins with its filter
    kind = 2 if colours else 0
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)  # 8 bits, colours or grey, not interlaced
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines.tobytes())), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
