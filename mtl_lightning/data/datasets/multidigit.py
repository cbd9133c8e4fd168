"""Two handwritten digits in one picture: a small multi-task problem on real images, without a download."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.rows import TensorRows, without_labels
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.tasks.classification import MulticlassClassification
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict

DIGIT = 8  # height and width of a source digit, in pixels
SOURCES: dict[Split, slice] = {"train": slice(0, 1200), "val": slice(1200, 1400), "test": slice(1400, 1797)}


class MultiDigit(MultiTaskDataModule):
    """Two overlapping digits in one picture; tasks ``left`` and ``right`` are their classes, ``sum`` their sum.

    The idea is MultiMNIST's, of `Dynamic Routing Between Capsules <https://arxiv.org/abs/1710.09829>`_ (section 6),
    made into a multi-task problem by `Multi-Task Learning as Multi-Objective Optimization
    <https://arxiv.org/abs/1810.04650>`_ (section 5.1): one digit in the top left, one in the bottom right. Departure:
    the digits are the 1797 of scikit-learn (8 x 8 pixels), so nothing is downloaded, and figures are not comparable
    with those papers'.

    Source digits are split before they are paired: rows 0-1199 of ``load_digits`` train, 1200-1399 validation,
    1400-1796 test, so that no test picture holds a digit seen in training. Both digits of a picture are drawn
    independently, with replacement. With a, b, c, d uniform integers on 0..jitter, the left one has its top-left
    corner at row a and column b, the right one at row canvas - 8 - c and column canvas - 8 - d; where they overlap the
    brighter pixel counts. Inputs are (B, 1, canvas, canvas) float32 in 0..1; targets (B,).

    Args:
        sizes: number of pictures for training, validation and test.
        canvas: height and width of a picture, in pixels.
        jitter: how far a digit may be from its corner, in pixels.
        sum: declare the third task, a regression of left + right, standardised.
        missing: the share of training labels to drop, independently for each task, to try missing labels.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the pairs, the positions, the dropped labels and the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: if a digit does not fit the canvas, if ``missing`` is no share, or without scikit-learn.
    """

    def __init__(
        self,
        *,
        sizes: tuple[int, int, int] = (10_000, 2_000, 4_000),
        canvas: int = 12,
        jitter: int = 1,
        sum: bool = False,
        missing: float = 0.0,
        batch_size: int = 256,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        if canvas < DIGIT + jitter:
            raise ConfigurationError(
                f"MultiDigit: expected canvas >= {DIGIT} + jitter, found canvas={canvas} and jitter={jitter}."
            )
        if len(sizes) != len(SOURCES):
            raise ConfigurationError(f"MultiDigit: expected `sizes` of 3 splits, found {tuple(sizes)}.")
        self.sizes: dict[Split, int] = dict(zip(SOURCES, sizes, strict=True))
        self.canvas, self.jitter, self.sum, self.missing = canvas, jitter, sum, missing

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec and the names of the classes."""
        return {
            "input_spec": input_spec_to_dict(TensorSpec((1, self.canvas, self.canvas))),
            "classes": [str(digit) for digit in range(10)],
        }

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return the two classifications, and the regression if asked for."""
        names = tuple(self.schema["classes"])
        digit = TargetSpec(classes=len(names), names=names)
        declared: dict[str, tuple[TargetSpec, TaskFactory]] = {
            "left": (digit, MulticlassClassification),
            "right": (digit, MulticlassClassification),
        }
        if self.sum:
            declared["sum"] = (TargetSpec(units="digits sum"), partial(Regression, standardize=True))
        return declared

    def rows(self, split: Split) -> TensorRows:
        """Compose the pictures (N, 1, canvas, canvas) of a split."""
        digits, classes = (source[SOURCES[split]] for source in load_sources())
        random, size = generator_of(self.seed, split), self.sizes[split]
        left, right = torch.randint(len(digits), (2, size), generator=random)
        a, b, c, d = torch.randint(self.jitter + 1, (4, size), generator=random)
        far = self.canvas - DIGIT
        pictures = torch.maximum(
            place(digits[left], a, b, self.canvas), place(digits[right], far - c, far - d, self.canvas)
        )
        targets = {"left": classes[left], "right": classes[right]}
        if self.sum:
            targets["sum"] = (classes[left] + classes[right]).float()
        if split == "train" and self.missing:
            targets = {name: self._with_missing(name, target) for name, target in targets.items()}
        return TensorRows(pictures[:, None], targets)

    def _with_missing(self, name: str, target: Tensor) -> Tensor:
        drop = torch.rand(len(target), generator=generator_of(self.seed, "missing", name)) < self.missing
        return without_labels(target, drop, self.missing_labels.get(name, MISSING))


def load_sources() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits (1797, 8, 8) float32 in 0..1, in their order, and their classes (1797,) int64.

    Raises:
        ConfigurationError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigurationError(
            "MultiDigit takes its digits from scikit-learn, which was not found: pip install 'mtl-lightning[examples]'"
        ) from error
    source = load_digits()
    return torch.from_numpy(source.images).float() / 16, torch.from_numpy(source.target).long()


def place(digits: Tensor, top: Tensor, left: Tensor, canvas: int) -> Tensor:
    """Put each digit (N, 8, 8) on an empty canvas with its top-left corner at rows ``top`` (N,), columns ``left`` (N,).

    Returns:
        Pictures (N, canvas, canvas).
    """
    pictures = digits.new_zeros(len(digits), canvas, canvas)
    pixels = torch.arange(DIGIT)
    which = torch.arange(len(digits))[:, None, None]
    pictures[which, (top[:, None] + pixels)[:, :, None], (left[:, None] + pixels)[:, None, :]] = digits
    return pictures
