"""The deep and cross network, version 2: explicit products of columns, for tables with many categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Encoder, EncoderArgument, build_encoder
from mtl_lightning.architectures.encoders import MLP, perceptron_stages
from mtl_lightning.architectures.sizes import check_widths, feature_size
from mtl_lightning.architectures.tabular import TabularEncoder
from mtl_lightning.types import ConfigurationError, InputSpec, TableSpec, TensorSpec


class DCNv2(Encoder):
    r"""Tables, or vectors, to features (B, D): layers that multiply the columns with each other, and a perceptron.

    `DCN V2: Improved Deep & Cross Network <https://arxiv.org/abs/2008.13535>`_ (Wang et al. 2021). With :math:`x_0` the
    columns side by side, categories embedded, each cross layer adds one order of products of them (equation 1):

    .. math:: x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l

    ``rank`` replaces :math:`W_l` by :math:`U_l V_l^T` (equation 2), ``experts`` by a mixture of so many of them
    (equations 3 and 4): :math:`x_{l+1} = \sum_i G_i(x_l) E_i(x_l) + x_l` with
    :math:`E_i(x_l) = x_0 \odot (U_{l,i} \tanh(C_{l,i} \tanh(V_{l,i}^T x_l)) + b_l)`, where G is a softmax of a linear
    map.

    The perceptron is stacked on the last cross layer, or runs beside them from :math:`x_0`, the features of both side
    by side (figure 1). The embeddings are those of :class:`TabularEncoder`, and the heads are the paper's last layer.

    Its ``stages`` are the columns, the cross layers together and each layer of the perceptron; in parallel, the columns
    and the rest.

    Args:
        spec: the spec of a table, or of vectors.
        columns: what makes :math:`x_0`, vectors (B, D), of the inputs: an encoder; by default a
            :class:`TabularEncoder` without hidden layers, which is the one to give with options of its own
            (``embedding``, ``bag``), and vectors as they are.
        layers: the number of cross layers.
        rank: of the cross layers' matrices; full by default.
        experts: how many matrices of that rank each cross layer mixes.
        structure: where the perceptron is: ``"stacked"`` on the cross layers, or ``"parallel"``.
        hidden: the width of each of its layers; none leaves it out.
        activation: makes the activation of each of its layers: a class, or a function without arguments.
        dropout: the probability with which one of its hidden units is zeroed in training.
        norm: makes the normalisation of each of its layers from the width, such as ``BatchNorm``; none by default.

    Raises:
        ConfigurationError: for inputs that are neither table nor vectors without ``columns``, ``columns`` whose
            features are no vectors, several ``experts`` without a ``rank``, an unknown structure, or a width below 1.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        columns: EncoderArgument | None = None,
        layers: int = 3,
        rank: int | None = None,
        experts: int = 1,
        structure: Literal["stacked", "parallel"] = "stacked",
        hidden: Sequence[int] = (128, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        first = _plain_columns(spec) if columns is None else build_encoder(columns, spec)
        size = feature_size(first, spec)
        if len(size) != 1:
            raise ConfigurationError(
                f"DCNv2: expected `columns` that make vectors (B, D), found features of size {size}."
            )
        if structure not in ("stacked", "parallel"):
            raise ConfigurationError(f"DCNv2: `structure`: expected stacked or parallel, found {structure!r}.")
        check_widths("`layers` and `experts`", (layers, experts))
        if rank is None and experts > 1:
            raise ConfigurationError(f"DCNv2: expected a `rank` with {experts} experts, found none; 32 is usual.")
        cross = Cross(size[0], layers, rank, experts)
        widths = (size[0], *check_widths("`hidden`", hidden))
        deep = [nn.Sequential(*layer) for layer in perceptron_stages(widths, activation, dropout, norm)]
        self.out_features = (widths[-1],)
        if structure == "stacked" or not deep:
            self.stages = nn.Sequential(first, cross, *deep)
        else:
            self.stages = nn.Sequential(first, SideBySide([cross, nn.Sequential(*deep)]))
            self.out_features = (size[0] + widths[-1],)

    def forward(self, inputs: object) -> Tensor:
        """Map a table's tensors, or vectors (B, *), to features (B, D)."""
        features: Tensor = self.stages(inputs)
        return features


class Cross(nn.Module):
    """Cross layers, one after the other, that all read the columns (B, D) they began with, too.

    Args:
        width: D.
        layers: how many.
        rank: of their matrices; None is full.
        experts: how many matrices each mixes.
    """

    def __init__(self, width: int, layers: int, rank: int | None, experts: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_map(width, rank, experts) for _ in range(layers))

    def forward(self, columns: Tensor) -> Tensor:
        """Map columns (B, D) to their products (B, D)."""
        crossed = columns
        for layer in self.layers:
            crossed = columns * layer(crossed) + crossed
        return crossed


class MixedMaps(nn.Module):
    """The mixture of low-rank maps (equation 4), with a bias that the experts have in common: (B, D) to (B, D)."""

    def __init__(self, width: int, rank: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.down = nn.Parameter(_uniform(experts, width, rank))
        self.inner = nn.Parameter(_uniform(experts, rank, rank))
        self.up = nn.Parameter(_uniform(experts, rank, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, crossed: Tensor) -> Tensor:
        """Map (B, D) to (B, D)."""
        low = torch.einsum("bd,edr->ber", crossed, self.down).tanh()
        low = torch.einsum("ber,ers->bes", low, self.inner).tanh()
        weighed = low * self.gate(crossed).softmax(-1).to(low.dtype).unsqueeze(-1)
        return torch.einsum("bes,esd->bd", weighed, self.up) + self.bias


class SideBySide(nn.Module):
    """Networks that read the same, their features (B, D) concatenated."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, *) to (B, the sum of their D)."""
        return torch.cat([network(inputs) for network in self.networks], dim=1)


def _map(width: int, rank: int | None, experts: int) -> nn.Module:
    if rank is None:
        return nn.Linear(width, width)
    if experts == 1:
        return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
    return MixedMaps(width, rank, experts)


def _uniform(experts: int, before: int, after: int) -> Tensor:
    """Draw maps from ``before`` to ``after`` numbers as ``nn.Linear`` does."""
    return torch.empty(experts, before, after).uniform_(-(before**-0.5), before**-0.5)


def _plain_columns(spec: InputSpec) -> nn.Module:
    if isinstance(spec, TableSpec):
        return TabularEncoder(spec, hidden=())
    if isinstance(spec, TensorSpec) and len(spec.shape) <= 1:
        return MLP(spec, hidden=())
    raise ConfigurationError(
        f"DCNv2 takes tables (a TableSpec) and vectors, found {spec!r}; give what makes vectors of it as `columns`."
    )
