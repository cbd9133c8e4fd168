"""The IDX format of the MNIST files: where they lie, how they are read, and where they come from."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtl_lightning.data.files import download
from mtl_lightning.types import DataError

SIDE = 28  # height and width of a picture, in pixels
CLASSES = 10
_BYTES = 8  # IDX's code of unsigned bytes
_LARGEST = 1 << 31  # values of a file; MNIST has 47 million


class IdxSource(NamedTuple):
    """A dataset of four IDX files.

    Attributes:
        name: of its folder, as torchvision spells it.
        url: of the folder that holds the ``.gz`` files.
        md5: the sum of each, as torchvision states it, by name.
        classes: the names of the classes.
    """

    name: str
    url: str
    md5: dict[str, str]
    classes: tuple[str, ...]

    def folder(self, root: Path, *, alone: bool) -> Path:
        """Return the folder below ``root`` that holds some of the files, or the one to download them to.

        Args:
            root: the folder that the user gave.
            alone: whether ``root`` may be this dataset's own folder.
        """
        named = [root / self.name / "raw", root / self.name]
        for folder in [*named, root / "raw", root] if alone else named:
            if any(_file(folder, name) is not None for name in self.md5):
                return folder
        return named[0]

    def fetch(self, folder: Path, *, allowed: bool) -> None:
        """Download what is missing in ``folder``.

        Raises:
            DataError: if something is missing and may not be downloaded, or cannot be.
        """
        missing = [name for name in self.md5 if _file(folder, name) is None]
        if missing and not allowed:
            raise DataError(
                f"{folder / missing[0]}: expected the file, or its form without .gz, found neither. Use "
                f"`download: true`, or get {', '.join(missing)} from {self.url} and put them there."
            )
        for name in missing:
            download(self.url + name, folder / name, md5=self.md5[name])

    def read(self, folder: Path, part: str) -> tuple[Tensor, Tensor]:
        """Return pictures (N, 28, 28) uint8 and classes (N,) int64 of a part, ``train`` or ``t10k``.

        Raises:
            DataError: that names the file, and the row if one is at fault.
        """
        images = _existing(folder, f"{part}-images-idx3-ubyte.gz")
        labels = _existing(folder, f"{part}-labels-idx1-ubyte.gz")
        pictures, classes = read_idx(images, 3), read_idx(labels, 1).long()
        if tuple(pictures.shape[1:]) != (SIDE, SIDE):
            raise DataError(f"{images}: expected pictures of 28 x 28 pixels, found {tuple(pictures.shape[1:])}.")
        if len(pictures) != len(classes):
            raise DataError(
                f"{labels}: expected {len(pictures)} labels, one for each picture of {images.name}, found "
                f"{len(classes)}. Get both files again."
            )
        if len(wrong := (classes >= CLASSES).nonzero()):
            row = int(wrong[0])
            raise DataError(f"{labels}: expected labels 0..{CLASSES - 1}, found {int(classes[row])} in row {row}.")
        return pictures, classes


def read_idx(path: Path, dims: int) -> Tensor:
    """Read an IDX file of unsigned bytes, compressed by gzip if it ends in ``.gz``.

    The format, as described beside `the MNIST database <http://yann.lecun.com/exdb/mnist/>`_: two bytes of zero, one
    that tells the dtype (8 for unsigned bytes), one that tells the number of axes; the size of each axis, 4 bytes with
    the highest first; the values.

    Args:
        path: the file.
        dims: the number of axes that are expected.

    Raises:
        DataError: that names the file, if it is damaged, cut short, or of another kind.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            header = file.read(4 + 4 * dims)
            shape = _shape(path, header, dims)
            content = file.read(math.prod(shape) + 1)  # not all: a compressed file may be of any size
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the file is cut short or damaged ({error}). Remove it and get it again.") from error
    if len(content) != math.prod(shape):
        found = len(content) if len(content) < math.prod(shape) else "more"
        raise DataError(
            f"{path}: expected {' x '.join(map(str, shape))} values, as its header says, found {found}. The file is "
            "cut short or damaged: remove it and get it again."
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape).copy())


def _shape(path: Path, header: bytes, dims: int) -> list[int]:
    """Read the sizes of the axes off a header."""
    if header[:4] != bytes([0, 0, _BYTES, dims]) or len(header) < 4 + 4 * dims:
        raise DataError(
            f"{path}: expected an IDX file of bytes with {dims} axes, which begins with 0, 0, {_BYTES}, {dims}, found "
            f"{', '.join(map(str, header[:4])) or 'an empty file'}. Get it again."
        )
    shape = np.frombuffer(header, ">i4", dims, offset=4).tolist()
    if min(shape) < 1 or math.prod(shape) > _LARGEST:
        raise DataError(
            f"{path}: expected at least one value, and {_LARGEST} at most, found a header that says "
            f"{' x '.join(map(str, shape))}. The file is damaged: remove it and get it again."
        )
    return [int(size) for size in shape]


def _file(folder: Path, name: str) -> Path | None:
    """Return the file, or its form that was unpacked, whichever is there."""
    return next((path for path in (folder / name, folder / name.removesuffix(".gz")) if path.is_file()), None)


def _existing(folder: Path, name: str) -> Path:
    path = _file(folder, name)
    if path is None:
        raise DataError(f"{folder / name}: expected the file, found none, nor its form without .gz.")
    return path


MNIST = IdxSource(
    name="MNIST",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    classes=tuple(map(str, range(CLASSES))),
)
FASHION_MNIST = IdxSource(
    name="FashionMNIST",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    md5={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
