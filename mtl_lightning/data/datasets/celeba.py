"""CelebA: forty yes-or-no attributes of a face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtl_lightning.data.archives import unpack
from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.datasets.images import ImageFileRows, check_pillow, check_size
from mtl_lightning.data.files import text_rows
from mtl_lightning.tasks.classification import BinaryClassification
from mtl_lightning.types import ConfigurationError, DataError, TargetSpec, TensorSpec, input_spec_to_dict

ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
IMAGES = "img_align_celeba"
SPLITS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
_LABELS = {"-1": 0, "1": 1}
_MANUAL = (
    "CelebA's licence (non-commercial research) forbids others to hand it on: open "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, agree to its terms, and get from the folders `Img`, `Anno` and "
    f"`Eval` the files {IMAGES}.zip, {ATTRIBUTES} and {PARTITION}. Put them into `root` as they are."
)


class _Table(NamedTuple):
    names: list[str]  # of N images
    labels: Tensor  # (N, T) uint8
    splits: Tensor  # (N,) uint8


class CelebA(MultiTaskDataModule):
    """Faces and their attributes, each of them a task named as in the dataset: ``Bald``, ``Smiling``, ...

    From `Deep Learning Face Attributes in the Wild <https://arxiv.org/abs/1411.7766>`_; as forty tasks in `Multi-Task
    Learning as Multi-Objective Optimization <https://arxiv.org/abs/1810.04650>`_ (section 5.2) and, with the settings
    here, in `FAMO <https://arxiv.org/abs/2306.03792>`_ (section 5.2): pictures of 64 x 64 without keeping the ratio of
    their sides, no augmentation, no normalisation but to 0..1, F1 of each task at a probability of 0.5. Inputs are
    (B, 3, height, width) float32, targets (B,); the dataset's own splits have 162,770, 19,867 and 19,962 faces.

    Files, either flat in ``root`` or in ``root/celeba`` (torchvision's layout), or in the dataset's own folders (FAMO's
    layout)::

        list_attr_celeba.txt        or  Anno/list_attr_celeba.txt
        list_eval_partition.txt     or  Eval/list_eval_partition.txt
        img_align_celeba/           or  Img/img_align_celeba/        (or img_align_celeba.zip, which is unpacked)

    The licence forbids downloading them for you: the error that you get without the files says where they are.

    Args:
        root: the folder that holds the files.
        attributes: the attributes to learn, in the order to learn them; by default all, in the order of the file.
        size: height and width to resize to, in pixels.
        mean: of each channel's pixels, which are in 0..1.
        std: of each channel's pixels.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the order of the training rows.
        num_workers: processes that read and resize images ahead; worth as many as there are cores.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for unknown attributes, a normalisation that divides by zero, or without pillow.
        DataError: that names the file, and the row if one is at fault, when files are missing or damaged.
    """

    root: Path

    def __init__(
        self,
        root: Path | str = "data",
        *,
        attributes: list[str] | None = None,
        size: tuple[int, int] = (64, 64),
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        batch_size: int = 256,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        check_pillow("CelebA")
        self.root, self.attributes = Path(root), attributes
        self.size, self.mean, self.std = check_size("CelebA", size), mean, std

    def prepare_data(self) -> None:
        """Unpack the images, if they are there as an archive only."""
        if self._find(IMAGES) is None and (archive := self._find(f"{IMAGES}.zip")) is not None:
            unpack(archive, archive.parent)

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec and the names of the attributes."""
        path = self._existing(ATTRIBUTES)
        names = dict(text_rows(path)).get(2, "").split()
        if not names:
            raise DataError(f"{path}: expected the names of the attributes in row 2, found none. Get the file again.")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{path}, row 2: expected every attribute once, found {twice} again. Get the file again.")
        if unknown := [name for name in self.attributes or [] if name not in names]:
            raise ConfigurationError(f"CelebA: expected `attributes` among {names}, found {unknown}.")
        return {
            "input_spec": input_spec_to_dict(TensorSpec((3, *self.size))),
            "attributes": list(dict.fromkeys(self.attributes or names)),
        }

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return a yes-or-no task for each attribute."""
        return {name: (TargetSpec(classes=2), BinaryClassification) for name in self.schema["attributes"]}

    def rows(self, split: Split) -> ImageFileRows:
        """Return the images of a split, in the order of the file of attributes."""
        names, labels, splits = self._table
        mine = splits == SPLITS[split]
        chosen = [name for name, keep in zip(names, mine.tolist(), strict=True) if keep]
        if not chosen:
            raise DataError(
                f"{self._existing(PARTITION)}: expected images of the split {split!r}, number {SPLITS[split]}, found "
                "none. Get the file again."
            )
        tasks = self.schema["attributes"]
        folder = self._existing(IMAGES)
        return ImageFileRows(folder, chosen, labels[mine], tasks, size=self.size, mean=self.mean, std=self.std)

    @cached_property
    def _table(self) -> _Table:
        """All images of the dataset, read once."""
        path, partition = self._existing(ATTRIBUTES), self._existing(PARTITION)
        names, labels = read_attributes(path, self.schema["attributes"])
        parts = read_partition(partition)
        if missing := [name for name in names if name not in parts]:
            raise DataError(f"{partition}: expected the split of every image of {path}, found none of {missing[0]}.")
        return _Table(names, labels, torch.tensor([parts[name] for name in names], dtype=torch.uint8))

    def _find(self, name: str) -> Path | None:
        """Return a file or folder, wherever in a known layout it is."""
        folders = [base / part for base in (self.root, self.root / "celeba") for part in (".", "Anno", "Eval", "Img")]
        return next((folder / name for folder in folders if (folder / name).exists()), None)

    def _existing(self, name: str) -> Path:
        path = self._find(name)
        if path is None:
            raise DataError(f"{self.root / name}: expected it there, or in a known layout, found none. {_MANUAL}")
        return path


def read_attributes(path: Path, wanted: Sequence[str]) -> tuple[list[str], Tensor]:
    """Read a file of attributes: the number of images; T names; and per image its name and T times -1 or 1.

    Args:
        path: the file.
        wanted: the attributes to return.

    Returns:
        The names of N images, and the labels (N, T) uint8 of the wanted attributes, 1 for yes and 0 for no.

    Raises:
        DataError: that names the file and the row.
    """
    rows = dict(text_rows(path))
    count, columns = rows.pop(1, "").strip(), rows.pop(2, "").split()
    names, values = dict[str, int](), bytearray()
    for row, line in rows.items():
        name, *found = line.split()
        if len(found) != len(columns):
            raise DataError(
                f"{path}, row {row}: expected a name and {len(columns)} values, found {len(found)}: "
                f"{line.strip()!r:.200}."
            )
        try:
            values.extend(map(_LABELS.__getitem__, found))
        except KeyError as error:
            raise DataError(
                f"{path}, row {row}: expected -1 or 1, found {error} for "
                f"{columns[[value in _LABELS for value in found].index(False)]!r}."
            ) from None
        if names.setdefault(name, row) != row:
            raise DataError(f"{path}, row {row}: expected every image once, found {name!r} of row {names[name]} again.")
    if not names or count != str(len(names)):
        raise DataError(
            f"{path}: expected as many images as row 1 says, {count or 'nothing'}, found {len(names)}. Get the file "
            "again."
        )
    labels = torch.frombuffer(values, dtype=torch.uint8).reshape(len(names), len(columns))
    return list(names), labels[:, [columns.index(name) for name in wanted]]


def read_partition(path: Path) -> dict[str, int]:
    """Read a file of splits: per image its name and 0 (training), 1 (validation) or 2 (test).

    Raises:
        DataError: that names the file and the row.
    """
    parts: dict[str, int] = {}
    for row, line in text_rows(path):
        name, *found = line.split()
        if len(found) != 1 or found[0] not in ("0", "1", "2"):
            raise DataError(f"{path}, row {row}: expected a name and 0, 1 or 2, found {line.strip()!r:.200}.")
        if name in parts:
            raise DataError(f"{path}, row {row}: expected every image once, found {name!r} again.")
        parts[name] = int(found[0])
    return parts
