"""Residual networks of 18, 34 and 50 layers, for pictures, dilated for dense targets if wanted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Encoder
from mtl_lightning.architectures.norms import BatchNorm
from mtl_lightning.types import ConfigurationError, InputSpec, TensorSpec

BLOCKS: dict[int, tuple[int, int, int, int]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECK_FROM, _EXPANSION = 50, 4


class ResNet(Encoder):
    """Residual network.

    `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_ (He et al. 2016), table 1,
    without the last, fully connected layer, which the heads replace. Its five ``stages`` are ``stem`` (7 x 7
    convolution and pooling, stride 4 in all) and ``layer1`` to ``layer4`` (strides 1, 2, 2, 2), with torchvision's
    names inside, so that its weights load. As there, a bottleneck has its stride in the 3 x 3 convolution.

    ``dilated`` keeps layer3 and layer4 at stride 8 and dilates their 3 x 3 convolutions by 2 and 4 instead, the first
    one of each by half of that, as the NYUv2 and Cityscapes literature does; pictures of H x W then give maps of
    H/8 x W/8, rounded up. torchvision dilates only networks of bottlenecks; here all depths can be.

    Args:
        spec: the pictures' spec: one floating-point tensor (C, H, W), where H and W may vary (None) unless ``pool`` is
            false.
        depth: 18 (blocks of two 3 x 3 convolutions), 34 (the same), or 50 (bottlenecks).
        dilated: stride 8 instead of 32.
        pool: average the last maps over space, (B, D); else features are maps (B, D, H', W').
        weights: a file of weights in torchvision's format, written by ``torch.save(model.state_dict(), path)``; the
            last layer's are left out. A checkpoint that is loaded later needs the file too, since the network is made
            before its weights are replaced.

    Raises:
        ConfigurationError: if the spec is of another kind, for other depths, or if the file does not fit.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        depth: Literal[18, 34, 50] = 18,
        dilated: bool = False,
        pool: bool = True,
        weights: Path | str | None = None,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ConfigurationError(f"ResNet: expected a depth of {sorted(BLOCKS)}, found {depth}.")
        channels, *sides = picture_shape(spec, type(self).__name__)
        self.stages, width = _stages(channels, depth, dilated, pool)
        self.out_features = (width,) if pool else (width, *_sides(sides, 8 if dilated else 32, type(self).__name__))
        self.apply(_draw)
        if weights is not None:
            load_torchvision(self, weights)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to features (B, D), or (B, D, H', W') without pooling."""
        features: Tensor = self.stages(inputs)
        return features


def _stages(channels: int, depth: int, dilated: bool, pool: bool) -> tuple[nn.Sequential, int]:
    """Return the five stages and the number of channels of the last one."""
    block = _Bottleneck if depth >= _BOTTLENECK_FROM else _Basic
    strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if dilated else ((1, 2, 2, 2), (1, 1, 1, 1))
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=_stem(channels))
    before = 64
    for number, blocks in enumerate(BLOCKS[depth]):
        width, dilation = 64 * 2**number, dilations[number]
        layers = nn.Sequential()
        for index in range(blocks):
            step = (1, dilation) if index else (strides[number], max(dilation // 2, 1))
            layers.append(block(before, width, *step, dilation))
            before = width * block.expansion
        stages[f"layer{number + 1}"] = layers
    if pool:
        stages["layer4"].add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return nn.Sequential(stages), before


class _Residual(nn.Module):
    """What both blocks do: add the shortcut to what their layers make, then ReLU."""

    expansion: int

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), BatchNorm(after))

    def residual(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        added: Tensor = self.relu(self.residual(inputs) + shortcut)
        return added


class _Basic(_Residual):
    """Two 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int, first: int, dilation: int) -> None:
        super().__init__(before, width, stride)
        self.conv1, self.bn1 = _conv3(before, width, stride, first), BatchNorm(width)
        self.conv2, self.bn2 = _conv3(width, width, 1, dilation), BatchNorm(width)

    def residual(self, inputs: Tensor) -> Tensor:
        made: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(inputs)))))
        return made


class _Bottleneck(_Residual):
    """1 x 1 to fewer channels, 3 x 3, 1 x 1 to four times as many."""

    expansion = _EXPANSION

    def __init__(self, before: int, width: int, stride: int, first: int, dilation: int) -> None:
        super().__init__(before, width * _EXPANSION, stride)
        del dilation  # the only 3 x 3 convolution of the first block has half of it
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), BatchNorm(width)
        self.conv2, self.bn2 = _conv3(width, width, stride, first), BatchNorm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, width * _EXPANSION, 1, bias=False), BatchNorm(width * _EXPANSION)

    def residual(self, inputs: Tensor) -> Tensor:
        inner = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(inputs))))))
        made: Tensor = self.bn3(self.conv3(inner))
        return made


def _conv3(before: int, after: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=dilation, dilation=dilation, bias=False)


def _stem(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
            bn1=BatchNorm(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )


def _draw(module: nn.Module) -> None:
    """Draw a convolution's weights as torchvision does."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _sides(sides: list[int | None], stride: int, encoder: str) -> list[int]:
    if None in sides:
        raise ConfigurationError(
            f"{encoder}: expected pictures of a fixed height and width, since `pool` is false and heads need the size "
            f"of the maps; found {tuple(sides)}. Pool, or resize the pictures in the data."
        )
    return [-(-side // stride) for side in sides if side is not None]


def picture_shape(spec: InputSpec | None, encoder: str) -> tuple[int, int | None, int | None]:
    """Return (C, H, W) of a spec of floating-point pictures; H and W may be None.

    Raises:
        ConfigurationError: that names the encoder, for any other spec.
    """
    if isinstance(spec, TensorSpec) and len(spec.shape) == 3 and getattr(torch, spec.dtype).is_floating_point:
        channels, height, width = spec.shape
        if channels is not None:
            return channels, height, width
    raise ConfigurationError(f"{encoder} takes floating-point pictures (C, H, W) with known C, found {spec!r}.")


def load_torchvision(network: ResNet, path: Path | str) -> None:
    """Load weights of torchvision's network of the same depth, but for its last layer ``fc``.

    Raises:
        ConfigurationError: if the file is missing, or its weights are of another network.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"ResNet: expected a file of weights, found none at {str(path)!r}.")
    saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, Mapping):
        raise ConfigurationError(f"ResNet: expected a `state_dict()` in {str(path)!r}, found {type(saved).__name__}.")
    stem = {"conv1", "bn1"}
    renamed = {
        f"stages.{'stem.' if name.split('.')[0] in stem else ''}{name}": value
        for name, value in saved.items()
        if not name.startswith("fc.")
    }
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:
        raise ConfigurationError(
            f"ResNet: expected weights of a ResNet of this depth and number of channels in torchvision's format, found "
            f"others in {str(path)!r}: {error}"
        ) from error
