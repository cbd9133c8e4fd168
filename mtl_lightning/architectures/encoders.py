"""Encoders that take their sizes from the data: a multi-layer perceptron and a small convolutional network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Encoder
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.types import ConfigurationError, InputSpec, TensorSpec

_SMALLEST, _LARGEST = 12, 64  # sides of LeNet's pictures, in pixels: 3 are left of 12, and 16 of 64, after two poolings


class MLP(Encoder):
    """Multi-layer perceptron: flattens any input (B, *) and maps it through hidden layers to features (B, D).

    Each of its ``stages`` is linear, normalisation, activation, dropout; the first one flattens before that. D is the
    last of ``hidden``; without hidden layers the flattened input itself is the features.

    Args:
        spec: the input's spec: one floating-point tensor of fixed shape.
        hidden: the width of each layer.
        activation: makes each layer's activation: a class, or a function without arguments.
        dropout: the probability with which a unit is zeroed in training.
        norm: makes the normalisation of each layer from its width, such as ``BatchNorm`` or ``torch.nn.LayerNorm``;
            none by default.

    Raises:
        ConfigurationError: if the spec is of another kind, or a width is below 1.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        hidden: Sequence[int] = (128, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        shape = _fixed_shape(spec, type(self).__name__)
        widths = (prod(shape), *check_widths("`hidden`", hidden))
        layers = perceptron_stages(widths, activation, dropout, norm) or [[]]
        layers[0].insert(0, nn.Flatten() if shape else nn.Unflatten(0, (-1, 1)))  # one number a row: a vector (B, 1)
        self.stages = nn.Sequential(*(nn.Sequential(*stage) for stage in layers))
        self.out_features = (widths[-1],)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *) to features (B, D)."""
        features: Tensor = self.stages(inputs)
        return features


class LeNet(Encoder):
    """The classic small network for digits: two convolutions with pooling, then one fully connected layer.

    After `Gradient-based learning applied to document recognition <https://doi.org/10.1109/5.726791>`_ (LeCun et al.
    1998), figure 2. Departures: the 5x5 kernels are padded by 2, so that pictures of 12x12 still have 3x3 left after
    both poolings; ReLU and maximum pooling in place of tanh and trainable averages, as is usual today; every map of
    the second convolution sees all of the first; one fully connected layer in place of two, since heads follow;
    wider layers, which tell apart two digits in one picture better (a shared bottom on 10,000 pairs of overlapping 8x8
    digits, 15 epochs: 88 % of the test digits at width 128, 90 % at 512, 91 % at 1024).

    Args:
        spec: the pictures' spec: one floating-point tensor (C, H, W), each of H and W from 12 to 64. The last row or
            column of an odd side is left out of the pooling, not of the convolution.
        channels: the number of maps of the first and of the second convolution.
        width: D, the width of the fully connected layer.

    Raises:
        ConfigurationError: if the spec is of another kind, or there are not two `channels`, or one of them or the
            width is below 1.
    """

    def __init__(self, spec: InputSpec, *, channels: tuple[int, int] = (32, 64), width: int = 1024) -> None:
        super().__init__()
        maps, rows, columns = _picture_shape(spec, type(self).__name__)
        if len(channels) != 2:
            raise ConfigurationError(f"Expected `channels` of two convolutions, found {channels!r}.")
        first, second, out_features = check_widths("`channels` and `width`", (*channels, width))
        self.stages = nn.Sequential(
            _convolution(maps, first),
            _convolution(first, second),
            nn.Sequential(nn.Flatten(), nn.Linear(second * (rows // 4) * (columns // 4), out_features), nn.ReLU()),
        )
        self.out_features = (out_features,)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to features (B, D)."""
        features: Tensor = self.stages(inputs)
        return features


def perceptron_stages(
    widths: Sequence[int],
    activation: Callable[[], nn.Module],
    dropout: float,
    norm: Callable[[int], nn.Module] | None = None,
) -> list[list[nn.Module]]:
    """Return the layers of a perceptron from ``widths[0]`` numbers to ``widths[-1]``, stage by stage."""
    return [
        [
            nn.Linear(before, after),
            *([norm(after)] if norm is not None else []),
            activation(),
            *([nn.Dropout(dropout)] if dropout else []),
        ]
        for before, after in pairwise(widths)
    ]


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2))


def _fixed_shape(spec: InputSpec | None, encoder: str) -> tuple[int, ...]:
    """Return the shape of a spec that is one floating-point tensor of fixed shape."""
    if not isinstance(spec, TensorSpec):
        raise ConfigurationError(
            f"{encoder} takes inputs that are one tensor (a TensorSpec), found {spec!r}; use TabularEncoder for a "
            "table, and give an encoder of your own for several tensors."
        )
    shape = tuple(n for n in spec.shape if n is not None)
    if len(shape) < len(spec.shape):
        raise ConfigurationError(
            f"{encoder} takes inputs of a fixed shape, found {spec.shape}, where None varies; resize or pad them in "
            "the data, or give an encoder that pools."
        )
    if not getattr(torch, spec.dtype).is_floating_point:
        raise ConfigurationError(
            f"{encoder} takes floating-point inputs, found {spec.dtype}; convert them in the data, or give an encoder "
            "that embeds them."
        )
    return shape


def _picture_shape(spec: InputSpec | None, encoder: str) -> tuple[int, int, int]:
    """Return (C, H, W) of a spec of pictures that LeNet can take."""
    shape = _fixed_shape(spec, encoder)
    if len(shape) != 3:
        raise ConfigurationError(f"{encoder} takes pictures (C, H, W), found inputs of shape {shape} a row; use MLP.")
    if not all(_SMALLEST <= side <= _LARGEST for side in shape[1:]):
        raise ConfigurationError(
            f"{encoder} takes pictures with sides from {_SMALLEST} to {_LARGEST} pixels, found {shape[1]}x{shape[2]}; "
            "resize them in the data, or use ResNet."
        )
    return shape[0], shape[1], shape[2]
