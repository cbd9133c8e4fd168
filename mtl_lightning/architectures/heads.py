"""Heads beyond the linear one, which stands in ``base.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from mtl_lightning.architectures.base import Head, Linear
from mtl_lightning.architectures.sizes import check_widths


class MLPHead(Head):
    """Multi-layer perceptron from features (B, D) to outputs (B, K).

    Dense features (B, D, H, W) are mapped pixel by pixel, to (B, K, H, W).

    Args:
        in_features: the shape of the features without B: (D,) or (D, H, W).
        out_features: K, the number of outputs.
        hidden: the width of each hidden layer.
        activation: makes the activation behind each hidden layer: a class, or a function without arguments.
        dropout: the probability with which a hidden unit is zeroed in training.

    Raises:
        ConfigurationError: if the features have another number of axes, or a width is below 1.
    """

    def __init__(
        self,
        in_features: tuple[int, ...],
        out_features: int,
        *,
        hidden: Sequence[int] = (64,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_features, out_features)
        layers: list[nn.Module] = []
        size = tuple(in_features)
        for width in check_widths("`hidden`", hidden):
            layers += [Linear(size, width), activation()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            size = (width, *size[1:])
        self.layers = nn.Sequential(*layers, Linear(size, out_features))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, *) to outputs (B, K, *)."""
        outputs: Tensor = self.layers(features)
        return outputs

    def last_affine(self) -> nn.Linear | nn.Conv2d:
        """Return the last layer's map."""
        return cast("Linear", self.layers[-1]).last_affine()

    def in_sequence(self) -> Sequence[nn.Module]:
        """Return the layers."""
        return [self.layers]
