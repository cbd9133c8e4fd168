"""NYUv2 in the form of the multi-task literature: classes, depth and surface normals of indoor pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mtl_lightning.data.base import TaskFactory, TaskOverrides
from mtl_lightning.data.datasets.dense.augmentation import Depth
from mtl_lightning.data.datasets.dense.files import VOID, Layer
from mtl_lightning.data.datasets.dense.folder import DenseFolder
from mtl_lightning.tasks.depth import DepthEstimation
from mtl_lightning.tasks.segmentation import SemanticSegmentation
from mtl_lightning.tasks.surface_normals import SurfaceNormals
from mtl_lightning.types import TargetSpec


class NYUv2(DenseFolder):
    """NYUv2: tasks ``segmentation`` (13 classes), ``depth`` (metres) and ``normals`` of 288 x 384 pixels.

    `Indoor Segmentation and Support Inference from RGBD Images
    <https://cs.nyu.edu/~silberman/papers/indoor_seg_support.pdf>`_ (Silberman et al., 2012), as prepared for
    `End-to-End Multi-Task Learning with Attention <https://arxiv.org/abs/1803.10704>`_ (Liu et al., 2019): 795 pictures
    for training, 654 for validation.

    Dataset format:

    - ``{root}/{train,val}/image/{i}.npy``, i = 0..N-1: (H, W, 3), floats in 0..1;
    - ``label``: (H, W), 0..12, -1 for a pixel without a class;
    - ``depth``: (H, W, 1), metres, 0 for a pixel without a value;
    - ``normal``: (H, W, 3), unit vectors, (0, 0, 0) for a pixel without one.

    Any height and width will do, if it is that of all files. Inputs are (B, 3, H, W) float32; targets (B, H, W) int64,
    (B, H, W) and (B, 3, H, W) float32.

    The literature has no test split: its figures are those of ``val``, the mean over the last 10 of 200 epochs, and so
    are ours by default, where ``val`` serves validation and test. To choose anything by validation, take rows off the
    training split with ``val_fraction``; ``val`` is then left for the test.

    Losses and metrics are the tasks' own: see :class:`~mtl_lightning.tasks.SemanticSegmentation`,
    :class:`~mtl_lightning.tasks.DepthEstimation` and :class:`~mtl_lightning.tasks.SurfaceNormals` for where they depart
    from published code, and :class:`~mtl_lightning.data.datasets.dense.ScaleCropFlip` for the augmentation.

    Args:
        root: the folder that holds ``train`` and ``val``; nothing is written to it.
        labels: the folder of the class maps; ``label`` by default.
        augment: training pictures are cut-outs, enlarged 1, 1.2 or 1.5 times, depth divided by that, and mirrored half
            of the time, the normals' x negated.
        tilt_normals: let enlarging multiply the normals' z too, as dividing the depth asks for; not done in the
            literature.
        mean: of each channel, to be subtracted; 0, as in most of the literature, and a std of 1 leave 0..1.
        std: of each channel, to divide by.
        val_fraction: the share of the training rows to validate on.
        batch_size: rows of a batch of one process; the literature has 2 for SegNet and 8 for DeepLab.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task, and its files
            are not needed then.
        seed: of the validation rows, of the augmentation and of the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for arguments out of range.
        DataError: for files that are missing or broken, before the first batch where one look can tell.
    """

    url = "https://www.dropbox.com/sh/86nssgwm6hm3vkb/AACrnUQ4GxpdrBbLjb6n-mWNa?dl=0"
    label_folders = ("label",)

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | None = None,
        augment: bool = True,
        tilt_normals: bool = False,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        val_fraction: float = 0.0,
        batch_size: int = 2,
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
        self.tilt_normals = tilt_normals

    def layers(self, labels: str) -> dict[str, tuple[Layer, TargetSpec, TaskFactory]]:
        """Return the three kinds of maps."""
        segmentation = partial(SemanticSegmentation, ignore_index=VOID)
        return {
            "segmentation": (Layer.classes(labels, 13), TargetSpec(classes=13), segmentation),
            "depth": (Layer.numbers("depth", Depth()), TargetSpec(units="metres"), DepthEstimation),
            "normals": (Layer.vectors("normal", tilt=self.tilt_normals), TargetSpec(), SurfaceNormals),
        }
