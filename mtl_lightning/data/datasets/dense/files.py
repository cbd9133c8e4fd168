"""Pictures and maps in files ``{folder}/{i}.npy``: looked for all at once, read and checked one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import Self

from mtl_lightning.data.datasets.dense.augmentation import MapKind, Normals, Picture, ScaleCropFlip
from mtl_lightning.types import Batch, DataError

_ROUNDING = 1e-3  # what resizing may add to a colour
VOID = -1  # a pixel without a class, in the files


@dataclass(frozen=True)
class Layer:
    """One kind of file: where it is, what it may hold, and how it is augmented.

    Args:
        folder: its folder's name.
        kind: how it follows its picture.
        values: what it may hold, in words.
        is_valid: maps values (C, H, W) or (H, W) to a bool mask.
        channels: C, the last axis in the file; None for (H, W), or (H, W, 1).
        is_classes: whether it holds classes, with -1 for none.
    """

    folder: str
    kind: MapKind
    values: str
    is_valid: Callable[[Tensor], Tensor]
    channels: int | None = None
    is_classes: bool = False

    @classmethod
    def pictures(cls, folder: str) -> Self:
        """Colours (H, W, 3), floats in 0..1."""
        return cls(folder, Picture(), "colours in 0..1 (bytes are divided by 255)", _are_colours, channels=3)

    @classmethod
    def classes(cls, folder: str, number: int) -> Self:
        """Classes (H, W), integers in any dtype, -1 for none."""
        words = f"classes 0..{number - 1} or {VOID} for none"
        return cls(folder, MapKind(), words, partial(_are_classes, number=number), is_classes=True)

    @classmethod
    def numbers(cls, folder: str, kind: MapKind) -> Self:
        """Depths or disparities (H, W, 1), floats of at least 0; nan is one without a value."""
        return cls(folder, kind, "finite numbers of at least 0, or nan", _are_numbers)

    @classmethod
    def vectors(cls, folder: str, *, tilt: bool = False) -> Self:
        """Unit normals (H, W, 3), (0, 0, 0) or nan for none."""
        return cls(folder, Normals(tilt), "finite vectors, or nan", _are_vectors, channels=3)

    def read(self, path: Path, sides: tuple[int, int]) -> Tensor:
        """Read a map of this height and width as float32 (C, H, W) or (H, W).

        Raises:
            DataError: that names the file, if it is missing, cannot be read, or holds something else.
        """
        array = _load(path)
        shape = sides if self.channels is None else (*sides, self.channels)
        if array.shape not in ({shape, (*shape, 1)} if self.channels is None else {shape}):
            raise DataError(f"{path}: expected an array of shape {shape}, found {array.shape}.")
        if array.dtype.kind not in "fiub" or (array.dtype.kind != "f" and not self.is_classes):
            raise DataError(
                f"{path}: expected {'numbers' if self.is_classes else 'floats'}, found {array.dtype}. Pictures are "
                "colours in 0..1, depths and normals are in their own units."
            )
        found = np.moveaxis(array, -1, 0) if self.channels is not None else array.reshape(sides)
        values = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))
        valid = self.is_valid(values)
        if not bool(valid.all()):
            place = (~valid).nonzero()[0]
            y, x = place[-2:].tolist()
            raise DataError(
                f"{path}: expected {self.values}, found {values[tuple(place)].item():g} at pixel ({y}, {x}). Correct "
                "the file, or get it again."
            )
        return values


def _are_colours(values: Tensor) -> Tensor:
    return (values >= -_ROUNDING) & (values <= 1 + _ROUNDING)


def _are_classes(values: Tensor, number: int) -> Tensor:
    return (values == values.round()) & (values >= VOID) & (values < number)


def _are_numbers(values: Tensor) -> Tensor:
    return values.isnan() | (values.isfinite() & (values >= 0))


def _are_vectors(values: Tensor) -> Tensor:
    return ~values.isinf()


# ---------------------------------------------------------------------------------------------------------------- files
def _load(path: Path) -> Any:
    """Map a file into memory."""
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected a file, found none.") from error
    except (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TokenError) as error:
        # or of a shape that cannot be; what a damaged header is to its reader differs with Python's version
        raise DataError(f"{path}: expected an array in NumPy's format, found what cannot be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one array in NumPy's format, found an archive of several.")
    return array


def sides_of(path: Path) -> tuple[int, int]:
    """Return the height and width of a file's picture or map."""
    shape = _load(path).shape
    if len(shape) < 2:
        raise DataError(f"{path}: expected an array of shape (H, W, 3), found {shape}.")
    return shape[0], shape[1]


def count_files(folder: Path) -> int:
    """Return N of the files ``0.npy`` to ``N-1.npy``.

    Raises:
        DataError: if the folder, or one of the files, is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of .npy files, found none.")
    stems = {entry.name.removesuffix(".npy") for entry in os.scandir(folder) if entry.name.endswith(".npy")}
    found = {int(stem) for stem in stems if stem.isdecimal()}
    number = 1 + max(found, default=0)  # of any size: it is a file's name
    if number > len(found):
        lost = next(place for place in range(number) if place not in found)
        raise DataError(
            f"{folder}: expected the files 0.npy to {number - 1}.npy without a gap, found none under the name "
            f"{lost}.npy ({number - len(found)} missing)."
        )
    return number


def check_folders(folder: Path, kinds: Sequence[str]) -> None:
    """Check that all kinds of files are there, one each per picture.

    Raises:
        DataError: that names the folder, or the first file missing.
    """
    first, *others = kinds
    number = count_files(folder / first)
    for kind in others:
        if (found := count_files(folder / kind)) != number:
            raise DataError(
                f"{folder / kind}: expected {number} files, one for each in {folder / first}, found {found}. "
                f"{min(found, number)}.npy is the first without its counterpart."
            )


# ----------------------------------------------------------------------------------------------------------------- rows
class MapRows(Dataset[Batch]):
    """Pictures (3, H, W) with maps (H, W) or (C, H, W), each read from its file when its row is.

    Args:
        folder: holds a folder for each kind of file.
        indices: the files of the rows, by number.
        sides: H and W.
        pictures: the kind of file of the inputs.
        targets: the kind of file of each task's target.
        missing: what stands for no class in each task's integer target.
        augmentation: applied to each row when it is read.
        mean: of each channel, to be subtracted from pictures.
        std: of each channel, to divide pictures by.
    """

    def __init__(
        self,
        folder: Path,
        indices: Sequence[int],
        sides: tuple[int, int],
        *,
        pictures: Layer,
        targets: Mapping[str, Layer],
        missing: Mapping[str, int],
        augmentation: ScaleCropFlip | None = None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.folder, self.indices, self.sides = folder, list(indices), sides
        self.layers = {_INPUTS: pictures, **targets}
        self.missing = dict(missing)
        self.augmentation, self.mean, self.std = augmentation, tuple(mean), tuple(std)

    @property
    def deterministic(self) -> bool:
        """Whether nothing is drawn when a row is read."""
        return self.augmentation is None

    def pictures_only(self) -> MapRows:
        """Return the same pictures without targets, as they are."""
        return MapRows(
            self.folder,
            self.indices,
            self.sides,
            pictures=self.layers[_INPUTS],
            targets={},
            missing={},
            mean=self.mean,
            std=self.std,
        )

    def read(self, name: str, index: int) -> Tensor:
        """Read a target, or ``"inputs"``, of the file with this number; a target's classes become int64."""
        layer = self.layers[name]
        values = layer.read(self.folder / layer.folder / f"{index}.npy", self.sides)
        return torch.where(values == VOID, self.missing[name], values).long() if layer.is_classes else values

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> Batch:
        maps = {name: self.read(name, self.indices[row]) for name in self.layers}
        if self.augmentation is not None:
            maps = self.augmentation(maps, {name: layer.kind for name, layer in self.layers.items()})
        picture = maps.pop(_INPUTS)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        picture = (picture - mean) / std
        return {"inputs": picture, "targets": maps} if maps else {"inputs": picture}


_INPUTS = "inputs"
