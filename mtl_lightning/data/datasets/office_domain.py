"""One domain of Office-31 or Office-Home: photographs or drawings of things found in an office."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.datasets.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageFileRows,
    check_pillow,
    check_size,
)
from mtl_lightning.data.files import text_rows
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.tasks.classification import MulticlassClassification
from mtl_lightning.types import ConfigurationError, DataError, TargetSpec, TensorSpec, input_spec_to_dict

Version: TypeAlias = Literal["31", "home"]


class OfficeVersion(NamedTuple):
    """What is known of a version of the dataset."""

    name: str
    domains: tuple[str, ...]
    classes: int
    lists: str  # the folder of its lists, as LibMTL calls it
    manual: str


VERSIONS: Mapping[str, OfficeVersion] = {
    "31": OfficeVersion(
        name="Office-31",
        domains=("amazon", "dslr", "webcam"),
        classes=31,
        lists="office-31",
        manual="Office-31 must be got by hand, from https://faculty.cc.gatech.edu/~judy/domainadapt/ (a page that "
        "moves now and then); unpack it so that `root` holds amazon, dslr and webcam.",
    ),
    "home": OfficeVersion(
        name="Office-Home",
        domains=("Art", "Clipart", "Product", "Real_World"),
        classes=65,
        lists="office-home",
        manual="Office-Home must be got by hand, for research that is not commercial, from "
        "https://www.hemanthdv.org/officeHomeDataset.html; unpack it so that `root` holds Art, Clipart, Product and "
        "Real_World.",
    ),
}
SPLITS: tuple[Split, ...] = ("train", "val", "test")
HELD_OUT = 0.2  # the share of each class for validation, and for test, where there are no lists
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png"}
_File: TypeAlias = tuple[str, int]  # relative to the root, and the class


class OfficeDomain(MultiTaskDataModule):
    """The images of one domain, and one task that is named after it: which of 31 or 65 things is it?

    See :class:`~mtl_lightning.data.Office`, which puts all domains of a version together. Inputs are
    (B, 3, height, width) float32, targets (B,).

    Args:
        root: the folder that holds the domains' folders.
        domain: ``amazon``, ``dslr`` or ``webcam``; ``Art``, ``Clipart``, ``Product`` or ``Real_World``.
        version: ``"31"`` or ``"home"``.
        lists: the folder of the files ``<domain>_train.txt``, ``<domain>_val.txt`` and ``<domain>_test.txt``; by
            default ``root/data_txt/office-31`` or ``root/data_txt/office-home``, if it is there.
        size: height and width to resize to, in pixels, without keeping the ratio of the sides.
        mean: of each channel's pixels, which are in 0..1; ImageNet's by default.
        std: of each channel's pixels.
        batch_size: rows of a batch of one process.
        tasks: another task for the declared name, as a function of the ``TargetSpec``.
        seed: of the order of the training rows, and of the splits where there are no lists.
        num_workers: processes that read and resize images ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for unknown domains and versions, a normalisation that divides by zero, or without pillow.
        DataError: that names the file, and the row if one is at fault, when files are missing or damaged.
    """

    root: Path

    def __init__(
        self,
        root: Path | str = "data",
        *,
        domain: str,
        version: Version = "31",
        lists: Path | str | None = None,
        size: tuple[int, int] = (224, 224),
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        batch_size: int = 64,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        check_pillow("Office")
        self.version = known_version(version)
        if domain not in self.version.domains:
            raise ConfigurationError(
                f"Office: expected a domain of {self.version.name}, {list(self.version.domains)}, found {domain!r}."
            )
        self.root, self.domain = Path(root), domain
        self.lists = None if lists is None else Path(lists)
        self.size, self.mean, self.std = check_size("Office", size), mean, std

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec and the names of the classes, which are those of their folders."""
        names = {label: Path(name).parent.name for files in self._files.values() for name, label in files}
        return {
            "input_spec": input_spec_to_dict(TensorSpec((3, *self.size))),
            "classes": [names.get(label, str(label)) for label in range(self.version.classes)],
        }

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return the classification, named after the domain."""
        names = tuple(self.schema["classes"])
        return {self.domain: (TargetSpec(classes=len(names), names=names), MulticlassClassification)}

    def rows(self, split: Split) -> ImageFileRows:
        """Return the images of a split, in the order of its list."""
        names, labels = zip(*self._files[split], strict=True)
        column = torch.tensor(labels, dtype=torch.uint8)[:, None]
        return ImageFileRows(self.root, names, column, [self.domain], size=self.size, mean=self.mean, std=self.std)

    @cached_property
    def _files(self) -> dict[Split, list[_File]]:
        """The files of each split: from lists if there are some, else drawn."""
        lists = self.root / "data_txt" / self.version.lists if self.lists is None else self.lists
        if self.lists is None and not lists.is_dir():
            return self._drawn()
        files: dict[Split, list[_File]] = {}
        taken: dict[str, str] = {}
        for split in SPLITS:
            path = lists / f"{self.domain}_{split}.txt"
            files[split] = [(self._place(name), label) for name, label in read_list(path, self.version.classes)]
            for name, _ in files[split]:
                if name in taken:
                    raise DataError(
                        f"{path}: expected every image in one list, once, found {name} in that of {taken[name]!r} too."
                    )
                taken[name] = split
        return files

    def _drawn(self) -> dict[Split, list[_File]]:
        """Draw validation and test files class by class, from the sorted names of the files."""
        folder = self.root / self._place(self.domain)
        folder = folder / "images" if (folder / "images").is_dir() else folder
        classes = sorted(path for path in folder.glob("*") if path.is_dir())
        if not 2 <= len(classes) <= self.version.classes:
            count = f"{len(classes)} folders" if folder.is_dir() else "no such folder"
            raise DataError(
                f"{folder}: expected a folder for each of the {self.version.classes} classes, found {count}. "
                f"{self.version.manual}"
            )
        files: dict[Split, list[_File]] = {split: [] for split in SPLITS}
        for label, place in enumerate(classes):
            found = sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
            order = torch.randperm(len(found), generator=generator_of(self.seed, self.domain, place.name)).tolist()
            held = round(HELD_OUT * len(found))
            cuts = {"val": order[:held], "test": order[held : 2 * held], "train": order[2 * held :]}
            for split in SPLITS:
                files[split] += [(str(found[i].relative_to(self.root)), label) for i in sorted(cuts[split])]
        if empty := [split for split in SPLITS if not files[split]]:
            raise DataError(
                f"{folder}: expected enough images for training, validation and test, found none for {empty}. Complete "
                "your copy, or give `lists`."
            )
        return files

    def _place(self, name: str) -> str:
        """Return the name as it is on the disk: Office-Home as published has a folder `Real World`."""
        published = name.replace("Real_World", "Real World", 1)
        return published if published != name and (self.root / "Real World").is_dir() else name


def known_version(version: str) -> OfficeVersion:
    """Look a version up.

    Raises:
        ConfigurationError: for an unknown one.
    """
    if version not in VERSIONS:
        raise ConfigurationError(f"Office: expected a version of {list(VERSIONS)}, found {version!r}.")
    return VERSIONS[version]


def read_list(path: Path, classes: int) -> list[_File]:
    """Read a list of images: per row a path and a class 0..classes-1, separated by the last space.

    Raises:
        DataError: that names the file and the row, if it is missing, empty, or a row is not like that.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a list of images, found no such file. Give the folder of lists as `lists`.")
    files: list[_File] = []
    for row, line in text_rows(path):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal() or len(label) > 9 or int(label) >= classes:
            raise DataError(
                f"{path}, row {row}: expected a path and a class 0..{classes - 1} after a space, found {line[:100]!r}."
            )
        files.append((name, int(label)))
    if not files:
        raise DataError(f"{path}: expected images in the list, found none.")
    return files
