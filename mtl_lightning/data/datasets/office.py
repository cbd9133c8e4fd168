"""Office-31 and Office-Home: the same things in several domains, one task for each."""

from __future__ import annotations

from pathlib import Path

from mtl_lightning.data.base import TaskOverrides
from mtl_lightning.data.datasets.images import IMAGENET_MEAN, IMAGENET_STD
from mtl_lightning.data.datasets.office_domain import OfficeDomain, Version, known_version
from mtl_lightning.data.per_task.datamodule import PerTaskData
from mtl_lightning.types import ConfigurationError


class Office(PerTaskData):
    """Things found in an office, told apart in several domains: each domain is a task with images of its own.

    Office-31, of `Adapting Visual Category Models to New Domains <https://doi.org/10.1007/978-3-642-15561-1_16>`_:
    4,110 images of 31 classes; domains, and tasks, ``amazon``, ``dslr`` and ``webcam``. Office-Home, of `Deep Hashing
    Network for Unsupervised Domain Adaptation <https://arxiv.org/abs/1706.07522>`_: 15,588 images of 65 classes;
    ``Art``, ``Clipart``, ``Product`` and ``Real_World``. As multi-task problems with the settings here in `LibMTL
    <https://arxiv.org/abs/2203.14338>`_: images of 224 x 224 without keeping the ratio of their sides, no augmentation,
    ImageNet's normalisation, accuracy of each task.

    A training step takes a batch of every domain; an epoch has as many steps as the largest domain has batches, and
    smaller ones start again (:class:`~mtl_lightning.data.PerTaskData`). Validation and test see every image once.

    Files as they are published::

        amazon/images/back_pack/frame_0001.jpg       Office-31
        Art/Alarm_Clock/00001.jpg                    Office-Home, whose `Real World` may have a `_`
        data_txt/office-31/amazon_train.txt          lists of LibMTL, if you have them: `amazon/images/.../x.jpg 0`

    With lists the splits and the numbers of the classes are theirs (60, 20 and 20 %). Without, 20 % of each class are
    drawn for validation and 20 % for test, by ``seed``, and classes are numbered in the order of their names. The
    files must be got by hand; the error that you get without them says where they are.

    Args:
        root: the folder that holds the domains' folders.
        version: ``"31"`` or ``"home"``.
        domains: which of the domains to learn; by default all.
        lists: the folder of the lists; by default ``root/data_txt/office-31`` or ``root/data_txt/office-home``, if it
            is there.
        size: height and width to resize to, in pixels.
        mean: of each channel's pixels, which are in 0..1.
        std: of each channel's pixels.
        batch_size: rows of a batch of one domain and one process.
        tasks: other tasks for domains, as functions of the ``TargetSpec``; None removes a domain.
        seed: of the order of the training rows, and of the splits where there are no lists.
        num_workers: processes that read and resize images ahead, for each domain.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for unknown domains and versions, a normalisation that divides by zero, or without pillow.
        DataError: that names the file, and the row if one is at fault, when files are missing or damaged.
    """

    def __init__(
        self,
        root: Path | str = "data",
        *,
        version: Version = "31",
        domains: list[str] | None = None,
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
        chosen, overrides = list(domains or known_version(version).domains), tasks or {}
        if unknown := [name for name in overrides if name not in chosen]:
            raise ConfigurationError(f"Office: expected in `tasks` domains of {chosen}, found {unknown}.")
        super().__init__(
            {
                domain: OfficeDomain(
                    root,
                    domain=domain,
                    version=version,
                    lists=lists,
                    size=size,
                    mean=mean,
                    std=std,
                    batch_size=batch_size,
                    tasks={domain: overrides[domain]} if domain in overrides else None,
                    seed=seed,
                    num_workers=num_workers,
                    drop_last=drop_last,
                )
                for domain in chosen
                if domain not in overrides or overrides[domain] is not None
            },
            seed=seed,
        )
