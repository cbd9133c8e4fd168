"""Cityscapes in the form of the multi-task literature: classes and disparity of street pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mtl_lightning.data.base import TaskFactory, TaskOverrides
from mtl_lightning.data.datasets.dense.augmentation import Disparity
from mtl_lightning.data.datasets.dense.files import VOID, Layer
from mtl_lightning.data.datasets.dense.folder import DenseFolder
from mtl_lightning.tasks.depth import DepthEstimation
from mtl_lightning.tasks.segmentation import SemanticSegmentation
from mtl_lightning.types import TargetSpec


class Cityscapes(DenseFolder):
    """Cityscapes: tasks ``segmentation`` (7 or 19 classes) and ``disparity`` of 128 x 256 pixels.

    `The Cityscapes Dataset for Semantic Urban Scene Understanding <https://arxiv.org/abs/1604.01685>`_ (Cordts et al.,
    2016), as prepared for `End-to-End Multi-Task Learning with Attention <https://arxiv.org/abs/1803.10704>`_ (Liu et
    al., 2019): 2975 pictures for training, 500 for validation.

    The files named ``depth`` hold *inverse* depth: disparity, scaled to lie in 0..0.5, large for what is near. The
    literature reports the errors of this number as those of a "depth" task. Here the task is called ``disparity``, so
    that its metrics are ``val/abs_error/disparity`` and ``val/rel_error/disparity``; relative errors of 20 to 50 are
    usual, since disparities are close to 0 far away.

    Dataset format:

    - ``{root}/{train,val}/image/{i}.npy``, i = 0..N-1: (H, W, 3), floats in 0..1;
    - ``label_7`` (or ``label``), ``label_19``: (H, W), classes 0..6 or 0..18, -1 for a pixel without one;
    - ``depth``: (H, W, 1), disparity, 0 for a pixel without a value.

    Any height and width will do, if it is that of all files; 256 x 512 exists as well. Inputs are (B, 3, H, W) float32;
    targets (B, H, W) int64 and (B, H, W) float32.

    The literature has no test split: its figures are those of ``val``, the mean over the last 10 of 200 epochs, and so
    are ours by default, where ``val`` serves validation and test. To choose anything by validation, take rows off the
    training split with ``val_fraction``; ``val`` is then left for the test.

    Args:
        root: the folder that holds ``train`` and ``val``; nothing is written to it.
        labels: the folder of the class maps; its name says how many classes there are: ``label_19`` has 19, ``label``
            has 7. By default ``label_7`` and ``label`` are tried.
        augment: training pictures are cut-outs, enlarged 1, 1.2 or 1.5 times, and mirrored half of the time. Disparity
            is *multiplied* by the scale: what looks larger is nearer. Departure: most published code divides it, as
            would be right for depth.
        mean: of each channel, to be subtracted; 0, as in most of the literature, and a std of 1 leave 0..1.
        std: of each channel, to divide by.
        val_fraction: the share of the training rows to validate on.
        batch_size: rows of a batch of one process; the literature has 8 for SegNet and 64 for DeepLab.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task, and its files
            are not needed then.
        seed: of the validation rows, of the augmentation and of the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for arguments out of range.
        DataError: for files that are missing or broken, before the first batch where one look can tell.
    """

    url = "https://www.dropbox.com/sh/gaw6vh6qusoyms6/AADwWi0Tp3E3M4B2xzeGlsEna?dl=0"
    label_folders = ("label_7", "label")

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | None = None,
        augment: bool = True,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        val_fraction: float = 0.0,
        batch_size: int = 8,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            root,
            labels=labels,
            augment=augment,
            mean=mean,
            std=std,
            val_fraction=val_fraction,
            batch_size=batch_size,
            tasks=tasks,
            seed=seed,
            num_workers=num_workers,
            drop_last=drop_last,
        )

    def layers(self, labels: str) -> dict[str, tuple[Layer, TargetSpec, TaskFactory]]:
        """Return the two kinds of maps."""
        suffix = labels.rpartition("_")[2]
        classes = int(suffix) if suffix.isdecimal() else 7
        segmentation = partial(SemanticSegmentation, ignore_index=VOID)
        disparity = TargetSpec(units="disparity (inverse depth), normalised")
        return {
            "segmentation": (Layer.classes(labels, classes), TargetSpec(classes=classes), segmentation),
            "disparity": (Layer.numbers("depth", Disparity()), disparity, DepthEstimation),
        }
