"""Pictures with label maps in folders ``{split}/{kind}/{i}.npy``: what NYUv2 and Cityscapes have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.datasets.dense.augmentation import ScaleCropFlip
from mtl_lightning.data.datasets.dense.files import Layer, MapRows, check_folders, count_files, sides_of
from mtl_lightning.data.loader import ResumableLoader
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.types import ConfigurationError, DataError, TargetSpec, TensorSpec, input_spec_to_dict

_PICTURES = Layer.pictures("image")
_EVERY = 4  # pixels, to fit a task's statistics on: a sixteenth of all of them is plenty


class DenseFolder(MultiTaskDataModule):
    """Pictures and maps ``{root}/{train,val}/{kind}/{i}.npy``, i = 0..N-1, in the form that the `code of MTAN
    <https://github.com/lorenmt/mtan>`_ made usual; each is read when its row is.

    Subclasses give :attr:`url` and :meth:`layers`, and say what the arguments mean.

    Args:
        root: the folder that holds ``train`` and ``val``; nothing is written to it.
        labels: the folder of the class maps; None tries :attr:`label_folders` in turn.
        augment: transform training pictures at random, together with their maps.
        mean: of each channel, to be subtracted.
        std: of each channel, to divide by.
        val_fraction: the share of the training rows to validate on.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the validation rows, of the augmentation and of the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Attributes:
        url: where a browser finds the files.
        label_folders: where class maps may be.
    """

    url: ClassVar[str]
    label_folders: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | None,
        augment: bool,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        val_fraction: float,
        batch_size: int,
        tasks: TaskOverrides | None,
        seed: int,
        num_workers: int,
        drop_last: bool,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        self.folder = Path(root)  # not `self.root`, in which a lock file would be made
        self.labels, self.mean, self.std, self.val_fraction = labels, mean, std, val_fraction
        self.augmentation = ScaleCropFlip() if augment else None

    # ------------------------------------------------------------------------------------------ what a subclass gives
    @abstractmethod
    def layers(self, labels: str) -> dict[str, tuple[Layer, TargetSpec, TaskFactory]]:
        """Return each task's kind of file, what is known of its target but for the size, and the task.

        Args:
            labels: the folder of the class maps.
        """

    # --------------------------------------------------------------------------------------------------------- contract
    def prepare_data(self) -> None:
        """Say how to get the files, if they are not there.

        Raises:
            DataError: with the steps to take.
        """
        if not any((self.folder / split / _PICTURES.folder).is_dir() for split in ("train", "val")):
            raise DataError(
                f"{self.folder}: expected the folders train/image and val/image of {type(self).__name__}, found "
                f"neither. They cannot be fetched without a browser: open {self.url} , download the folder, unpack it, "
                "and give the path of the folder that holds `train` and `val` as `root`."
            )

    def read_schema(self) -> dict[str, Any]:
        """Look at all folders, and at the first file of each: the input spec, and the folder of the class maps.

        Raises:
            DataError: for a missing folder or file, and for files of other shapes than the first picture's.
        """
        labels = self._label_folder()
        wanted = [
            layer for name, (layer, *_) in self.layers(labels).items() if self._overrides.get(name, self) is not None
        ]
        for split in ("train", "val"):
            check_folders(self.folder / split, [layer.folder for layer in (_PICTURES, *wanted)])
        sides = sides_of(self.folder / "train" / _PICTURES.folder / "0.npy")
        for split in ("train", "val"):
            for layer in (_PICTURES, *wanted):
                layer.read(self.folder / split / layer.folder / "0.npy", sides)
        return {"input_spec": input_spec_to_dict(TensorSpec((3, *sides))), "labels": labels}

    def _label_folder(self) -> str:
        candidates = self.label_folders if self.labels is None else (self.labels,)
        for name in candidates:
            if (self.folder / "train" / name).is_dir():
                return name
        if self._overrides.get("segmentation", self) is None:
            return candidates[0]  # the only task that needs it has been removed
        raise DataError(
            f"{self.folder / 'train'}: expected class maps in {' or '.join(candidates)}, found no such folder. Name "
            "theirs in `labels`, or remove the task: `tasks: {segmentation: null}`."
        )

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return the tasks with the size of their maps."""
        return {
            name: (replace(spec, shape=(*(() if layer.channels is None else (layer.channels,)), *self._sides)), task)
            for name, (layer, spec, task) in self.layers(self.schema["labels"]).items()
        }

    @property
    def _sides(self) -> tuple[int, int]:
        height, width = self.schema["input_spec"]["tensor"]["shape"][1:]
        return height, width

    def rows(self, split: Split) -> MapRows:
        """Return the rows of a split."""
        folder = self.folder / ("val" if split == "test" or (split == "val" and not self.val_fraction) else "train")
        indices = list(range(count_files(folder / _PICTURES.folder)))
        if folder.name == "train":
            indices = self._share(indices, validation=split == "val")
        layers = self.layers(self.schema["labels"])
        return MapRows(
            folder,
            indices,
            self._sides,
            pictures=_PICTURES,
            targets={name: layers[name][0] for name in self.missing_labels},
            missing=self.missing_labels,
            augmentation=self.augmentation if split == "train" else None,
            mean=self.mean,
            std=self.std,
        )

    def _share(self, indices: list[int], *, validation: bool) -> list[int]:
        """Return the training rows, or those taken off them to validate on."""
        number = round(self.val_fraction * len(indices))
        if self.val_fraction and not 0 < number < len(indices):
            raise ConfigurationError(
                f"{type(self).__name__}: expected at least 1 row to train and 1 to validate on, found {number} of "
                f"{len(indices)} rows to validate on with val_fraction={self.val_fraction}."
            )
        order = torch.randperm(len(indices), generator=generator_of(self.seed, "val_fraction"))
        chosen = order[:number] if validation else order[number:]
        return [indices[place] for place in sorted(chosen.tolist())]

    def train_target(self, task: str) -> Tensor:
        """Return a task's training maps as they are in the files, every fourth pixel in both directions.

        All pixels of all maps would need more memory than a mean and a standard deviation are worth.
        """
        rows = cast("MapRows", self._split("train"))
        return torch.stack([rows.read(task, index)[..., ::_EVERY, ::_EVERY] for index in rows.indices])

    def predict_dataloader(self) -> ResumableLoader:
        """Return the test pictures, in order; their maps need not be there."""
        loader = super().predict_dataloader()
        rows: Any = loader.dataset
        rows.dataset = self.rows("test").pictures_only()
        return loader
