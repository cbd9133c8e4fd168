"""MultiMNIST and its relatives: two overlapping pictures in one, a class to tell for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.datasets.idx import FASHION_MNIST, MNIST, SIDE, IdxSource
from mtl_lightning.data.datasets.images import PictureRows
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.tasks.classification import MulticlassClassification
from mtl_lightning.types import ConfigurationError, DataError, TargetSpec, TensorSpec, input_spec_to_dict

CANVAS = 36  # height and width of the picture that two are put into, in pixels
SHIFT = 6  # how far the right one is from the top and from the left, in pixels


class MultiMNIST(MultiTaskDataModule):
    """Two handwritten digits in one picture; the tasks ``left`` and ``right`` are their classes.

    From `Dynamic Routing Between Capsules <https://arxiv.org/abs/1710.09829>`_ (section 6), as a multi-task problem
    `Multi-Task Learning as Multi-Objective Optimization <https://arxiv.org/abs/1810.04650>`_ (section 5.1), whose code
    gives the recipe: every picture of MNIST is once the left one, at the top left corner of a canvas of 36 x 36; a
    picture drawn at random, with replacement, lies 6 pixels further down and to the right; where they overlap the
    brighter pixel counts; every pixel of the 28 x 28 result is the canvas pixel under its centre.

    Departures from that code: a validation split, taken off the training pictures *before* they are paired, so that no
    picture is in two splits; and the pairs, which are drawn anew (by ``seed``). Inputs are (B, 1, 28, 28) float32,
    targets (B,), metrics those of :class:`~mtl_lightning.tasks.MulticlassClassification`, of which the literature
    reports the accuracy.

    The files are MNIST's own, compressed or not, in ``root/MNIST/raw`` (torchvision's layout), ``root/MNIST``,
    ``root/raw`` or ``root``: ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz``, and the same with
    ``t10k``. Missing ones are downloaded from the mirror that torchvision names, and checked by the sums that it
    states; the download could not be tried where this was written.

    Args:
        root: the folder that holds the files, or that they are downloaded to.
        download: fetch missing files.
        val_fraction: the share of the training pictures that is kept for validation.
        mean: of the pixels, which are in 0..1; MNIST's own by default.
        std: of the pixels.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the validation split, the pairs, and the order of the training rows.
        num_workers: processes that read rows ahead; pictures are in memory, so that 0 is seldom slower.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for a share that is none, or a normalisation that divides by zero.
        DataError: that names the file, and the row if one is at fault, when files are missing or damaged.
    """

    root: Path
    source: ClassVar[IdxSource] = MNIST

    def __init__(
        self,
        root: Path | str = "data",
        *,
        download: bool = True,
        val_fraction: float = 0.1,
        mean: float = 0.1307,
        std: float = 0.3081,
        batch_size: int = 256,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        self.root, self.download, self.val_fraction = Path(root), download, val_fraction
        self.mean, self.std = mean, std

    @property
    def sources(self) -> dict[str, IdxSource]:
        """Where each task's pictures come from."""
        return {"left": self.source, "right": self.source}

    def prepare_data(self) -> None:
        """Download the files that are missing."""
        for source in {source.name: source for source in self.sources.values()}.values():
            source.fetch(self._folder(source), allowed=self.download)

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec and the names of each task's classes."""
        return {
            "input_spec": input_spec_to_dict(TensorSpec((1, SIDE, SIDE))),
            "classes": {task: list(source.classes) for task, source in self.sources.items()},
        }

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return the two classifications."""
        return {
            task: (TargetSpec(classes=len(names), names=tuple(names)), MulticlassClassification)
            for task, names in self.schema["classes"].items()
        }

    def rows(self, split: Split) -> PictureRows:
        """Pair the pictures (N, 1, 28, 28) of a split; there are as many pairs as pictures on the left."""
        (left, first), (right, second) = (self._pictures(source, split) for source in self.sources.values())
        drawn = torch.randint(len(right), (len(left),), generator=generator_of(self.seed, "pairs", split))
        targets = {"left": first, "right": second[drawn]}
        return PictureRows(overlaid(left, right[drawn])[:, None], targets, mean=[self.mean], std=[self.std])

    def _pictures(self, source: IdxSource, split: Split) -> tuple[Tensor, Tensor]:
        """Return a split's pictures (N, 28, 28) uint8, in the order of the file, and their classes (N,)."""
        folder = self._folder(source)
        pictures, classes = source.read(folder, "t10k" if split == "test" else "train")
        if split == "test":
            return pictures, classes
        val = round(self.val_fraction * len(pictures))
        if not 0 < val < len(pictures):
            raise DataError(
                f"{folder}: expected pictures for training and for validation, found {len(pictures)} in all, of which "
                f"val_fraction={self.val_fraction} takes {val}. Change `val_fraction`."
            )
        order = torch.randperm(len(pictures), generator=generator_of(self.seed, "validation", source.name))
        mine = (order[:val] if split == "val" else order[val:]).sort().values
        return pictures[mine], classes[mine]

    def _folder(self, source: IdxSource) -> Path:
        return source.folder(self.root, alone=len({source.name for source in self.sources.values()}) == 1)


class MultiFashion(MultiMNIST):
    """Two pieces of clothing in one picture, or one with a digit on its right; the tasks are ``left`` and ``right``.

    MultiMNIST's recipe (see :class:`MultiMNIST`, departures included) on the pictures of `Fashion-MNIST
    <https://arxiv.org/abs/1708.07747>`_. As in `Pareto Multi-Task Learning <https://arxiv.org/abs/1912.12854>`_
    (section 5.1), there is a variant with a digit of MNIST on the right. Departure: that paper's files
    (``multi_fashion.pickle``, 36 x 36, 120,000 pairs) are not read, so that figures are not comparable with theirs.

    The files are Fashion-MNIST's own, named and placed as MNIST's, in ``root/FashionMNIST/raw``,
    ``root/FashionMNIST``, ``root/raw`` or ``root``. With ``right="mnist"`` MNIST's are needed as well, and only the
    folders that are named after the datasets are looked at. The download goes by HTTP, the only way that the publisher
    offers, and is checked by the sums that torchvision states; it could not be tried where this was written.

    Args:
        root: the folder that holds the files, or that they are downloaded to.
        right: where the right pictures come from.
        download: fetch missing files.
        val_fraction: the share of the training pictures that is kept for validation.
        mean: of the pixels, which are in 0..1; Fashion-MNIST's own by default.
        std: of the pixels.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the validation split, the pairs, and the order of the training rows.
        num_workers: processes that read rows ahead; pictures are in memory, so that 0 is seldom slower.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for a share that is none, or a normalisation that divides by zero.
        DataError: that names the file, and the row if one is at fault, when files are missing or damaged.
    """

    source = FASHION_MNIST

    def __init__(
        self,
        root: Path | str = "data",
        *,
        right: Literal["fashion", "mnist"] = "fashion",
        download: bool = True,
        val_fraction: float = 0.1,
        mean: float = 0.2860,
        std: float = 0.3530,
        batch_size: int = 256,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            root,
            download=download,
            val_fraction=val_fraction,
            mean=mean,
            std=std,
            batch_size=batch_size,
            tasks=tasks,
            seed=seed,
            num_workers=num_workers,
            drop_last=drop_last,
        )
        if right not in ("fashion", "mnist"):
            raise ConfigurationError(f"MultiFashion: expected right='fashion' or right='mnist', found {right!r}.")
        self.right = right

    @property
    def sources(self) -> dict[str, IdxSource]:
        """Where each task's pictures come from."""
        return {"left": FASHION_MNIST, "right": MNIST if self.right == "mnist" else FASHION_MNIST}


def overlaid(left: Tensor, right: Tensor) -> Tensor:
    """Put pairs of pictures (N, 28, 28) onto one canvas each, and shrink it.

    Returns:
        Pictures (N, 28, 28) of the same dtype.
    """
    canvas = left.new_zeros(len(left), CANVAS, CANVAS)
    canvas[:, :SIDE, :SIDE] = left
    corner = canvas[:, SHIFT : SHIFT + SIDE, SHIFT : SHIFT + SIDE]
    torch.maximum(corner, right, out=corner)
    centres = ((torch.arange(SIDE) + 0.5) * CANVAS / SIDE).long()
    return canvas[:, centres][:, :, centres]
