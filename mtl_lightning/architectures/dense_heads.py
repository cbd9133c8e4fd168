"""Heads for dense targets: the DeepLab head, with atrous spatial pyramid pooling, and bilinear upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.architectures.base import Head, Linear
from mtl_lightning.architectures.norms import BatchNorm
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError


class ASPP(Ranged, nn.Module):
    """Atrous spatial pyramid pooling of maps (B, D, H, W) to (B, C, H, W).

    `Rethinking Atrous Convolution for Semantic Image Segmentation <https://arxiv.org/abs/1706.05587>`_ (Chen et al.
    2017), section 3.3: a 1 x 1 convolution, a 3 x 3 one for each dilation rate, and the mean over the whole map,
    side by side, then a 1 x 1 convolution of all of them. Each has batch normalisation and ReLU.

    Args:
        in_channels: D.
        channels: C, of each branch and of the output.
        rates: the dilation rates.
        dropout: the probability with which an output is zeroed in training.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_conv(in_channels, channels, 1), *(_conv(in_channels, channels, 3, rate) for rate in rates)]
        )
        self.whole = _conv(in_channels, channels, 1)
        self.project = nn.Sequential(_conv(channels * (len(rates) + 2), channels, 1), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, H, W) to (B, C, H, W)."""
        whole = self.whole(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[2:])
        pyramid: Tensor = self.project(torch.cat([*(branch(features) for branch in self.branches), whole], dim=1))
        return pyramid


class DeepLabHead(Head):
    """The DeepLab v3 head: atrous pyramid pooling, a 3 x 3 convolution, a 1 x 1 one, and bilinear upsampling.

    `Rethinking Atrous Convolution for Semantic Image Segmentation <https://arxiv.org/abs/1706.05587>`_ (Chen et al.
    2017), with the rates for stride 8 that the NYUv2 and Cityscapes literature uses with a dilated
    :class:`~mtl_lightning.architectures.ResNet`.

    Args:
        in_features: the shape of the features without B: (D, H, W).
        out_features: K, the number of outputs of a pixel.
        channels: of the pyramid and the layers behind it.
        rates: the dilation rates of the pyramid.
        dropout: the probability with which the pyramid's outputs are zeroed in training.
        size: height and width of the outputs, in pixels; by default those of the features.

    Raises:
        ConfigurationError: if the features are no maps, or a size is below 1.
    """

    def __init__(
        self,
        in_features: tuple[int, ...],
        out_features: int,
        *,
        channels: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(in_features, out_features)
        (depth, *_), (width,) = _maps(in_features, type(self).__name__), check_widths("`channels`", (channels,))
        self.size = _size(size)
        self.layers = nn.Sequential(
            ASPP(depth, width, check_widths("`rates`", rates), dropout),
            _conv(width, width, 3),
            Linear((width, *in_features[1:]), out_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, H, W) to outputs (B, K, *size)."""
        return upsample(self.layers(features), self.size)

    def last_affine(self) -> nn.Linear | nn.Conv2d:
        """Return the last layer's map; upsampling makes weighted means of its outputs, and leaves their scale."""
        return cast("Linear", self.layers[-1]).last_affine()


class UpsamplingHead(Head):
    """A linear map of each pixel's features, after convolutions if wanted, and bilinear upsampling of its outputs.

    Args:
        in_features: the shape of the features without B: (D, H, W).
        out_features: K, the number of outputs of a pixel.
        hidden: the channels of each 3 x 3 convolution (batch normalisation, ReLU) before the linear map.
        size: height and width of the outputs, in pixels; by default those of the features.

    Raises:
        ConfigurationError: if the features are no maps, or a size is below 1.
    """

    def __init__(
        self,
        in_features: tuple[int, ...],
        out_features: int,
        *,
        hidden: Sequence[int] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(in_features, out_features)
        depth, *sides = _maps(in_features, type(self).__name__)
        self.size = _size(size)
        layers: list[nn.Module] = []
        for width in check_widths("`hidden`", hidden):
            layers.append(_conv(depth, width, 3))
            depth = width
        self.layers = nn.Sequential(*layers, Linear((depth, *sides), out_features))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, H, W) to outputs (B, K, *size)."""
        return upsample(self.layers(features), self.size)

    def last_affine(self) -> nn.Linear | nn.Conv2d:
        """Return the last layer's map; upsampling makes weighted means of its outputs, and leaves their scale."""
        return cast("Linear", self.layers[-1]).last_affine()


def upsample(outputs: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resize outputs (B, K, H, W) bilinearly, corners on corners, as the dense-prediction literature does."""
    if size is None or tuple(outputs.shape[2:]) == size:
        return outputs
    return F.interpolate(outputs, size=size, mode="bilinear", align_corners=True)


def _conv(before: int, after: int, kernel: int, rate: int = 1) -> nn.Sequential:
    padding = rate * (kernel // 2)
    layer = nn.Conv2d(before, after, kernel, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(layer, BatchNorm(after), nn.ReLU())


def _maps(in_features: tuple[int, ...], head: str) -> tuple[int, ...]:
    if len(in_features) == 3:
        return tuple(in_features)
    raise ConfigurationError(
        f"{head}: expected features that are maps (D, H, W) a row, found {tuple(in_features)}; use Linear or MLPHead "
        "for vectors, or an encoder that does not pool."
    )


def _size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = check_widths("`size`", size)
    return height, width
