"""An encoder of tables: numbers and embedded categories, concatenated, through a perceptron."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import pow

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.base import Encoder
from mtl_lightning.architectures.encoders import perceptron_stages
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.types import ConfigurationError, InputSpec, TableSpec


def embedding_width(codes: int, largest: int = 50) -> int:
    """Return the usual width of an embedding of ``codes`` codes: 1.6 codes ** 0.56, at most ``largest``.

    The rule of thumb of the `fastai library <https://docs.fast.ai/tabular.model.html>`_ (``emb_sz_rule``), which has
    600 as its largest.
    """
    return max(1, min(largest, round(1.6 * pow(codes, 0.56))))


class TabularEncoder(Encoder):
    """Tables to features (B, D): each categorical column embedded, beside the numeric ones, then a perceptron.

    The columns and their numbers of codes come from the data's schema. Code 0, missing or unseen, has an embedding
    that starts at zero and is learned from the rows in which it occurs; where training had none of these, it adds
    nothing. Numeric columns come standardised from the data; nan, a missing number, becomes 0, the mean.

    The first of its ``stages`` embeds and concatenates, each further one is a hidden layer. The embeddings are called
    ``*.embedding.<column number>.weight``, for ``groups: {embeddings: ["*.embedding.*"]}``.

    Args:
        spec: the table's spec.
        hidden: the width of each layer; none gives the concatenated columns themselves.
        embedding: the width of the embeddings: a number for all columns or one by column name; by default
            :func:`embedding_width` of the number of codes, for columns without an entry too.
        standardize: standardise the numeric columns here (:class:`Standardize`), for data that does not.
        activation: makes each layer's activation: a class, or a function without arguments.
        dropout: the probability with which a hidden unit is zeroed in training.
        norm: makes the normalisation of each layer from its width, such as ``BatchNorm``; none by default.

    Raises:
        ConfigurationError: if the spec is of another kind or has no columns, a width is below 1, or ``embedding``
            names no categorical column.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        hidden: Sequence[int] = (128, 64),
        embedding: int | dict[str, int] | None = None,
        standardize: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(spec, TableSpec) or not (spec.numeric or spec.categorical):
            raise ConfigurationError(
                f"TabularEncoder takes tables (a TableSpec with columns), found {spec!r}; use MLP for vectors."
            )
        columns = Columns(spec, embedding, standardize)
        widths = (columns.width, *check_widths("`hidden`", hidden))
        layers = perceptron_stages(widths, activation, dropout, norm)
        self.stages = nn.Sequential(columns, *(nn.Sequential(*layer) for layer in layers))
        self.out_features = (widths[-1],)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Map ``numeric`` (B, Dn) and ``categorical`` (B, Dc) to features (B, D)."""
        features: Tensor = self.stages(inputs)
        return features


class Columns(nn.Module):
    """Concatenates the numeric columns and the embeddings of the categorical ones, (B, width)."""

    def __init__(self, spec: TableSpec, embedding: int | Mapping[str, int] | None, standardize: bool) -> None:
        super().__init__()
        if isinstance(embedding, Mapping) and (unknown := [name for name in embedding if name not in spec.categorical]):
            raise ConfigurationError(
                f"`embedding`: expected names of categorical columns, {list(spec.categorical)}, found {unknown}."
            )
        given = embedding if isinstance(embedding, Mapping) else dict.fromkeys(spec.categorical, embedding)
        self.embedding = nn.ModuleList()
        for name, codes in spec.categorical.items():
            chosen = given.get(name)
            chosen = embedding_width(codes) if chosen is None else chosen
            (width,) = check_widths(f"`embedding` of {name!r}", (chosen,))
            self.embedding.append(Embedding(codes, width))
        self.standardize = Standardize(len(spec.numeric)) if standardize and spec.numeric else None
        self.width = len(spec.numeric) + sum(int(module.weight.shape[1]) for module in self._tables())

    def _tables(self) -> list[Embedding]:
        return [module for module in self.embedding if isinstance(module, Embedding)]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Map ``numeric`` (B, Dn) and ``categorical`` (B, Dc) to (B, width)."""
        numeric = inputs["numeric"]
        numeric = numeric if self.standardize is None else self.standardize(numeric)
        parts = [torch.nan_to_num(numeric, nan=0.0)]
        codes = inputs["categorical"]
        parts += [table(codes[:, column]) for column, table in enumerate(self.embedding)]
        return torch.cat(parts, dim=1)


class Standardize(nn.Module):
    """Subtracts the mean of each column and divides by its standard deviation, over all numbers met in training.

    The statistics are buffers, brought up to date by each forward in training mode; missing numbers (nan) count
    nowhere and stay nan. A column that never varied is only centred.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        for name in ("count", "mean", "squares"):  # squares: summed squared deviations from the mean
            self.register_buffer(name, torch.zeros(columns))

    def forward(self, numeric: Tensor) -> Tensor:
        """Map columns (B, Dn) to standardised ones."""
        if self.training:
            self._meet(numeric.detach().to(self.mean.dtype))
        variance = self.squares / self.count.clamp(min=1)
        return (numeric - self.mean) * torch.where(variance > 0, variance, 1).rsqrt()

    @torch.no_grad()
    def _meet(self, numeric: Tensor) -> None:
        """Add a batch to the statistics, by the exact rule for the mean and variance of two groups together."""
        there = ~numeric.isnan()
        number = there.sum(0).to(numeric.dtype)
        mean = torch.where(there, numeric, 0).sum(0) / number.clamp(min=1)
        squares = torch.where(there, numeric - mean, 0).square().sum(0)
        total, apart = (self.count + number).clamp(min=1), mean - self.mean
        self.squares += squares + apart.square() * self.count * number / total
        self.mean += apart * number / total
        self.count += number


class Embedding(nn.Embedding):
    """An embedding whose code 0, missing or unseen, starts at zero."""

    def reset_parameters(self) -> None:
        """Draw new weights of standard deviation 0.01, but for code 0: a rare code starts out mattering little."""
        nn.init.normal_(self.weight, std=0.01)
        with torch.no_grad():
            self.weight[0].zero_()
