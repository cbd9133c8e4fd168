"""Pictures: read from files or held as bytes, handed out as normalised numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtl_lightning.data.rows import TensorRows
from mtl_lightning.types import Batch, ConfigurationError, DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalized(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Map pictures (*, C, H, W) uint8 to ``(pictures / 255 - mean) / std`` in float32, channel by channel."""
    scaled = pictures.float().div_(255)
    return scaled.sub_(torch.tensor(mean).reshape(-1, 1, 1)).div_(torch.tensor(std).reshape(-1, 1, 1))


def check_size(owner: str, size: Sequence[int]) -> tuple[int, int]:
    """Return a height and a width in pixels.

    Raises:
        ConfigurationError: that names the owner, for anything else.
    """
    if len(size) != 2:
        raise ConfigurationError(f"{owner}: expected `size` to be a height and a width in pixels, found {list(size)}.")
    return int(size[0]), int(size[1])


def read_picture(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file, as colours, and resize it without keeping the ratio of its sides.

    Resizing is pillow's bilinear one, which averages over all pixels that a smaller picture leaves out, as torchvision
    does with images of pillow.

    Args:
        path: an image in any format that pillow knows.
        size: height and width in pixels; by default those of the file.

    Returns:
        A picture (3, H, W) uint8.

    Raises:
        ConfigurationError: if pillow is not installed.
        DataError: that names the file, if it is missing, cut short, or no image.
    """
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            colours = image.convert("RGB")
            if size is not None and colours.size != (size[1], size[0]):
                colours = colours.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    except FileNotFoundError:
        raise DataError(f"{path}: expected an image, found no such file. Complete your copy of the data.") from None
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:  # what damaged files make it say
        raise DataError(f"{path}: expected an image, found a file that cannot be read as one: {error}.") from error
    return torch.from_numpy(np.array(colours)).permute(2, 0, 1).contiguous()


def check_pillow(owner: str) -> None:
    """Check that image files can be read at all.

    Raises:
        ConfigurationError: if pillow is not installed.
    """
    try:
        _pillow()
    except ConfigurationError as error:
        raise ConfigurationError(f"{owner}: {error}") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigurationError(
            "Image files are read by pillow, which was not found: pip install 'mtl-lightning[images]'"
        ) from error
    return Image


class PictureRows(TensorRows):
    """Pictures in memory, a byte per pixel; a batch of them is normalised, in float32.

    Args:
        pictures: (N, C, H, W) uint8.
        targets: one tensor (N,) per task.
        mean: of each channel's pixels, which are in 0..1.
        std: of each channel's pixels.
    """

    def __init__(
        self, pictures: Tensor, targets: dict[str, Tensor], *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(pictures, targets)
        self.mean, self.std = tuple(mean), tuple(std)

    def __getitem__(self, row: int) -> Batch:
        return self._normalized(super().__getitem__(row))

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        return self._normalized(super().__getitems__(rows))

    def _normalized(self, batch: Batch) -> Batch:
        return {**batch, "inputs": normalized(batch["inputs"], self.mean, self.std)}


class ImageFileRows(Dataset[Batch]):
    """Pictures in files, read when they are asked for (``num_workers`` of the datamodule), and labels in memory.

    Args:
        folder: what the names are relative to.
        names: of the N files.
        labels: (N, T) of any integer dtype.
        tasks: names of the T columns of ``labels``.
        size: height and width to resize to, in pixels.
        mean: of each channel's pixels, which are in 0..1.
        std: of each channel's pixels.
    """

    deterministic = True  # nothing is drawn when a row is read, so no random state needs setting

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        labels: Tensor,
        tasks: Sequence[str],
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.folder = folder
        self.names = np.array(names)  # one block of memory, which workers share
        self.labels = labels
        self.tasks = tuple(tasks)
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Batch:
        batch = self.__getitems__([row])
        return {"inputs": batch["inputs"][0], "targets": {name: t[0] for name, t in batch["targets"].items()}}

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        pictures = torch.stack([read_picture(self.folder / str(self.names[row]), self.size) for row in rows])
        labels = self.labels[torch.tensor(rows)].long().T.contiguous()
        return {
            "inputs": normalized(pictures, self.mean, self.std),
            "targets": dict(zip(self.tasks, labels.unbind(), strict=True)),
        }
