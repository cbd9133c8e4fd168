"""Pictures with a label for each pixel, read from ``{split}/{kind}/{i}.npy``: what NYUv2 and Cityscapes share.

A dataset in this form is a :class:`DenseFolder` that lists its maps, a :class:`Layer` and a task for each::

    class Rooms(DenseFolder):
        url = "https://..."
        label_folders = ("label",)

        def layers(self, labels):
            return {"depth": (Layer.numbers("depth", Depth()), TargetSpec(units="metres"), DepthEstimation)}
"""

from mtl_lightning.data.datasets.dense.augmentation import Depth, Disparity, ScaleCropFlip
from mtl_lightning.data.datasets.dense.files import Layer
from mtl_lightning.data.datasets.dense.folder import DenseFolder

__all__ = ["DenseFolder", "Depth", "Disparity", "Layer", "ScaleCropFlip"]
