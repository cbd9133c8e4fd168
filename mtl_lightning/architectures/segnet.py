"""SegNet: an encoder and decoder of pictures, whose features have the pictures' height and width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.architectures.base import Encoder
from mtl_lightning.architectures.norms import BatchNorm
from mtl_lightning.architectures.resnet import picture_shape
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.types import ConfigurationError, InputSpec


class SegNet(Encoder):
    """SegNet, as the NYUv2 and Cityscapes literature has it.

    `SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation
    <https://arxiv.org/abs/1511.00561>`_ (Badrinarayanan et al. 2017), section 3. Each level of the encoder is
    convolutions (3 x 3, batch normalisation, ReLU) and maximum pooling by 2; the decoder mirrors it, and puts each
    value where the maximum was. Odd sides are rounded down in pooling and come back whole. Departures: the number of
    convolutions is the same on all levels but the first, which has one, as in `MTAN <https://arxiv.org/abs/1803.10704>`_.

    The places of the maxima go past the layers between, so that a SegNet is no sequence of stages. With
    ``upsampling="nearest"`` the decoder repeats values instead, and the network has ``stages``, one per level
    of encoder and decoder, for architectures that share layer by layer.

    Args:
        spec: the pictures' spec: one floating-point tensor (C, H, W) with H and W of at least 2 ** levels.
        widths: the number of channels of each level; features have the first one.
        convolutions: the number of convolutions of a level.
        upsampling: ``indices`` of the maxima, as in the paper, or ``nearest``.

    Raises:
        ConfigurationError: if the spec is of another kind, pictures are too small, or a width is below 1.
    """

    stages: nn.Sequential

    def __init__(
        self,
        spec: InputSpec,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        convolutions: int = 2,
        upsampling: Literal["indices", "nearest"] = "indices",
    ) -> None:
        super().__init__()
        channels, height, width = picture_shape(spec, type(self).__name__)
        levels = check_widths("`widths`", widths)
        check_widths("`convolutions` and the number of `widths`", (convolutions, len(levels)))
        first = levels[0]
        if height is None or width is None or min(height, width) < 2 ** len(levels):
            raise ConfigurationError(
                f"SegNet of {len(levels)} levels: expected pictures of a fixed height and width of at least "
                f"{2 ** len(levels)} pixels, found {height} x {width}; resize them in the data, or give fewer `widths`."
            )
        if upsampling not in ("indices", "nearest"):
            raise ConfigurationError(f"SegNet: expected `upsampling` 'indices' or 'nearest', found {upsampling!r}.")
        down = [_level(channels, first, 1), *(_level(a, b, convolutions) for a, b in pairwise(levels))]
        up = [*(_level(b, a, convolutions) for a, b in reversed(list(pairwise(levels)))), _level(first, first, 1)]
        if upsampling == "indices":
            self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        else:
            sides = [(height // 2**level, width // 2**level) for level in reversed(range(len(levels)))]
            self.stages = nn.Sequential(
                *(nn.Sequential(level, nn.MaxPool2d(2)) for level in down),
                *(nn.Sequential(nn.Upsample(size=size), level) for size, level in zip(sides, up, strict=True)),
            )
        self.out_features = (first, height, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to features (B, D, H, W)."""
        features = inputs
        if hasattr(self, "stages"):
            return cast("Tensor", self.stages(features))
        pooled: list[tuple[Tensor, Any]] = []
        for level in self.down:
            made = level(features)
            features, places = F.max_pool2d(made, 2, return_indices=True)
            pooled.append((places, list(made.shape[-2:])))
        for level, (places, size) in zip(self.up, reversed(pooled), strict=True):
            features = level(F.max_unpool2d(features, places, (2, 2), output_size=size))
        return features


def _level(before: int, after: int, convolutions: int) -> nn.Sequential:
    widths = [before] + [after] * convolutions
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), BatchNorm(b), nn.ReLU())
            for a, b in pairwise(widths)
        )
    )
