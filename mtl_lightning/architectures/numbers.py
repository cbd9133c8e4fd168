"""Embeddings of numbers: vectors that a network can learn more of than of the numbers themselves.

`On Embeddings for Numerical Features in Tabular Deep Learning <https://arxiv.org/abs/2203.05556>`_ (Gorishniy et al.
2022). Each column is encoded by itself as F numbers, which a linear map of its own makes a vector of. Departures: a
missing number (nan) has a learned vector of its own that starts at zero, as code 0 of a category has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf, pi
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.types import ConfigurationError, TableSpec

NumberKind: TypeAlias = Literal["linear", "buckets", "periodic", "piecewise"]


class NumberEmbedding(nn.Module, ABC):
    """Embeds some columns of numbers, each by itself: (B, Dn) to (B, n * width).

    ``weight`` (n, 2 + F, width) has, by column, the vector of a missing number, the bias, and the map of its F encoded
    numbers.

    Args:
        columns: the places of the n columns in ``numeric``.
        features: F, how many numbers each is encoded as.
        width: of each column's vector.
    """

    columns: Tensor
    rectified: ClassVar[bool] = False
    in_given_units: ClassVar[bool] = False  # whether it takes the numbers before they are standardised in the network

    def __init__(self, columns: Sequence[int], features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.weight = nn.Parameter(torch.zeros(len(columns), 2 + features, width))
        nn.init.uniform_(self.weight[:, 1:], -(features**-0.5), features**-0.5)

    def forward(self, numeric: Tensor) -> Tensor:
        """Map columns (B, Dn) to vectors (B, n * width)."""
        numbers = numeric[:, self.columns]
        encoded = self.encode(torch.nan_to_num(numbers, nan=0.0))
        vectors = torch.einsum("bnf,nfw->bnw", encoded, self.weight[:, 2:]) + self.weight[:, 1]
        vectors = vectors.relu() if self.rectified else vectors
        return torch.where(numbers.isnan().unsqueeze(-1), self.weight[:, 0], vectors).flatten(1)

    @abstractmethod
    def encode(self, numbers: Tensor) -> Tensor:
        """Map numbers (B, n) to (B, n, F)."""


class Linear(NumberEmbedding):
    """ReLU(w x + b): section 3.4, "LR"."""

    rectified = True

    def __init__(self, columns: Sequence[int], width: int) -> None:
        super().__init__(columns, 1, width)

    def encode(self, numbers: Tensor) -> Tensor:
        """Return the numbers."""
        return numbers.unsqueeze(-1)


class Periodic(NumberEmbedding):
    """Sines and cosines of learned frequencies c: sin(2 pi c x) and cos(2 pi c x), section 3.3, with a ReLU, "PLR".

    Args:
        columns: as for :class:`NumberEmbedding`.
        width: the same.
        frequencies: how many for each column.
        scale: the standard deviation of the normal distribution that they are drawn from, in cycles per unit.
    """

    rectified = True

    def __init__(self, columns: Sequence[int], width: int, frequencies: int, scale: float) -> None:
        super().__init__(columns, 2 * frequencies, width)
        self.frequencies = nn.Parameter(torch.randn(len(columns), frequencies) * scale)

    def encode(self, numbers: Tensor) -> Tensor:
        """Return sines and cosines."""
        angles = 2 * pi * self.frequencies * numbers.unsqueeze(-1)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Buckets(NumberEmbedding):
    """The bucket between training quantiles, as a category: a vector for each.

    Args:
        columns: as for :class:`NumberEmbedding`.
        width: the same.
        bounds: between the buckets, by column; a number on a bound is in the upper one.
    """

    in_given_units = True  # as the quantiles are
    low: Tensor
    high: Tensor

    def __init__(self, columns: Sequence[int], width: int, bounds: Sequence[Sequence[float]]) -> None:
        most = max(map(len, bounds))
        super().__init__(columns, most + 1, width)
        nn.init.normal_(self.weight[:, 1:], std=0.01)
        padded = [[-inf, *own, *[inf] * (most + 1 - len(own))] for own in bounds]
        edges = torch.tensor(padded, dtype=torch.get_default_dtype())
        self.register_buffer("low", edges[:, :-1].contiguous())
        self.register_buffer("high", edges[:, 1:].contiguous())

    def encode(self, numbers: Tensor) -> Tensor:
        """Return 1 in each number's bucket, else 0."""
        numbers = numbers.unsqueeze(-1)
        return ((numbers >= self.low) & (numbers < self.high)).to(self.weight.dtype)


class Piecewise(NumberEmbedding):
    """The piecewise-linear encoding between training quantiles (section 3.2), which makes a piecewise-linear function.

    A number becomes, for each bin [b_t, b_t+1], the share of it that lies below the number, from 0 to 1. Below the
    first and above the last bound, where the paper goes on with the first and last bin's slope, each has a slope of its
    own, in units of the distance between first and last bound: the last of 64 bins is often narrow and the tail behind
    it long.

    Args:
        columns: as for :class:`NumberEmbedding`.
        width: the same.
        bounds: rising, at least one by column.
    """

    in_given_units = True  # as the quantiles are
    start: Tensor
    slope: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, columns: Sequence[int], width: int, bounds: Sequence[Sequence[float]]) -> None:
        pieces = [self._pieces(own) for own in bounds]
        features = max(map(len, pieces))
        super().__init__(columns, features, width)
        unused = (0.0, 0.0, 0.0, 0.0)
        padded = [own + [unused] * (features - len(own)) for own in pieces]
        table = torch.tensor(padded, dtype=torch.get_default_dtype())
        for name, values in zip(("start", "slope", "least", "most"), table.unbind(-1), strict=True):
            self.register_buffer(name, values.contiguous())

    @staticmethod
    def _pieces(bounds: Sequence[float]) -> list[tuple[float, float, float, float]]:
        """Return where each piece starts, its slope, and its least and largest value."""
        scale = 1 / (bounds[-1] - bounds[0]) if len(bounds) > 1 else 1.0
        bins = [(low, 1 / (high - low), 0.0, 1.0) for low, high in pairwise(bounds)]
        return [(bounds[0], scale, -inf, 0.0), *bins, (bounds[-1], scale, 0.0, inf)]

    def encode(self, numbers: Tensor) -> Tensor:
        """Return each number's share of each piece."""
        shares = (numbers.unsqueeze(-1) - self.start) * self.slope
        return torch.minimum(torch.maximum(shares, self.least), self.most)


def number_embeddings(
    spec: TableSpec, kinds: Mapping[str, NumberKind | None], by_column: bool, width: int, frequencies: int, scale: float
) -> tuple[list[int], nn.ModuleDict]:
    """Return the places of the numbers that stay as they are, and the embeddings of the others, by kind.

    Args:
        spec: the table's spec.
        kinds: of each numeric column; None for one that stays as it is.
        by_column: whether columns were named; if not, those without quantiles stay as they are.
        width: of each vector.
        frequencies: of periodic ones.
        scale: of these.

    Raises:
        ConfigurationError: for a kind that there is not, and for a lack of quantiles.
    """
    check_widths("`number_width` and `frequencies`", (width, frequencies))
    if wrong := sorted({str(kind) for kind in kinds.values()} - {"None", *_KINDS}):
        raise ConfigurationError(f"`numbers`: expected one of {list(_KINDS)}, found {wrong}.")
    without = [n for n, kind in kinds.items() if kind in ("buckets", "piecewise") and not spec.quantiles.get(n)]
    if without and (by_column or len(without) == len(kinds)):
        raise ConfigurationError(
            f"`numbers`: expected training quantiles of {without} in the data's schema, found none. Take linear or "
            "periodic, or data that have them: TableData fits them for columns of numbers, not for vectors."
        )
    used = {name: None if name in without else kind for name, kind in kinds.items()}
    made = nn.ModuleDict()
    for kind in _KINDS:
        if names := [name for name in used if used[name] == kind]:
            columns = [spec.numeric.index(name) for name in names]
            bounds = [spec.quantiles.get(name, ()) for name in names]
            if kind == "linear":
                made[kind] = Linear(columns, width)
            elif kind == "periodic":
                made[kind] = Periodic(columns, width, frequencies, scale)
            else:
                made[kind] = (Buckets if kind == "buckets" else Piecewise)(columns, width, bounds)
    return [place for place, name in enumerate(spec.numeric) if used[name] is None], made


_KINDS: tuple[NumberKind, ...] = ("linear", "buckets", "periodic", "piecewise")
