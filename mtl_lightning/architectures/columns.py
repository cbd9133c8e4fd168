"""What encoders of tables begin with: numbers, embedded categories and bags of list elements, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from math import pow
from typing import Literal, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from mtl_lightning.architectures.numbers import NumberKind, number_embeddings
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.architectures.stacked import can_be_stacked, stacks_of
from mtl_lightning.names import did_you_mean
from mtl_lightning.types import ConfigurationError, TableSpec

Bag: TypeAlias = Literal["mean", "sum"]
T = TypeVar("T")


def embedding_width(codes: int, largest: int = 50) -> int:
    """Return the usual width of an embedding of ``codes`` codes: 1.6 codes ** 0.56, at most ``largest``.

    The rule of thumb of the `fastai library <https://docs.fast.ai/tabular.model.html>`_ (``emb_sz_rule``), which has
    600 as its largest.
    """
    return max(1, min(largest, round(1.6 * pow(codes, 0.56))))


class Columns(nn.Module):
    """Concatenates the numeric columns, the embeddings of the categorical ones and the bags of lists, (B, width).

    ``embedding`` has a table for each categorical column and then each column of lists, in order; columns that share
    one have it at the place of the first of them.

    Small tables are looked up together (:class:`~mtl_lightning.architectures.stacked.Stack`) while ``fast_paths`` is
    true, which gives the same numbers.

    Args:
        spec: the table's spec.
        embedding: the width of the embeddings, or that of some by the name of a column or of a shared table.
        standardize: whether to standardise the numeric columns here.
        bag: how the embeddings of a list's elements are brought together, or how those of some columns are (the
            others' mean).
        numbers: how numeric columns are embedded, all or some by name; None leaves them as they are.
        number_width: the width of these embeddings.
        frequencies: of a periodic one, by column.
        frequency_scale: what these are drawn with.
        sparse: whether the gradients of embeddings of categories and lists are sparse.

    Raises:
        ConfigurationError: for names that are no such columns, widths below 1, columns that share embeddings but
            differ in width or number of codes, and numbers without the quantiles that their embedding needs.
    """

    fast_paths: bool = True

    def __init__(
        self,
        spec: TableSpec,
        embedding: int | Mapping[str, int] | None,
        standardize: bool,
        bag: Bag | Mapping[str, Bag] = "mean",
        numbers: NumberKind | Mapping[str, NumberKind] | None = None,
        number_width: int = 8,
        frequencies: int = 16,
        frequency_scale: float = 0.1,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        tables = _Tables(spec, embedding)
        self.embedding = nn.ModuleList(Embedding(codes, width, sparse=sparse) for codes, width in tables.sizes)
        self._tables, self._categorical = tables.of_columns, len(spec.categorical)
        self._stacks = [] if sparse else stacks_of(self._tables[: self._categorical], tables.sizes)
        ends = accumulate((length for _, length in spec.lists.values()), initial=0)
        self._lists = [slice(start, end) for start, end in pairwise(ends)]
        self._bags = _by_name("bag", bag, spec.lists, "columns of lists", "mean")
        if wrong := {name: kind for name, kind in self._bags.items() if kind not in ("mean", "sum")}:
            raise ConfigurationError(f"`bag`: expected mean or sum, found {wrong}.")
        self.standardize = Standardize(len(spec.numeric)) if standardize and spec.numeric else None
        kinds = _by_name("numbers", numbers, dict.fromkeys(spec.numeric), "numeric columns", None)
        plain, self.numbers = number_embeddings(
            spec, kinds, isinstance(numbers, Mapping), number_width, frequencies, frequency_scale
        )
        self._plain = None if len(plain) == len(spec.numeric) else plain
        self.width = (
            len(plain)
            + (len(spec.numeric) - len(plain)) * number_width
            + sum(tables.sizes[table][1] for table in self._tables)
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Map ``numeric`` (B, Dn), ``categorical`` (B, Dc) and, where there are any, ``lists`` (B, L) to (B, width)."""
        given = inputs["numeric"]
        numeric = given if self.standardize is None else self.standardize(given)
        parts = [torch.nan_to_num(numeric if self._plain is None else numeric[:, self._plain], nan=0.0)]
        parts += [embed(given if embed.in_given_units else numeric) for embed in self.numbers.values()]
        parts += self._embedded(inputs["categorical"]) if self._categorical else []
        parts += self._bagged(inputs["lists"]) if self._lists else []
        return torch.cat(parts, dim=1)

    def _embedded(self, codes: Tensor) -> list[Tensor]:
        """Return the embeddings of the categorical columns (B, C), in order, together (B, width)."""
        tables = self._tables[: self._categorical]
        if not (self.fast_paths and self._stacks and can_be_stacked(self.embedding, Embedding)):
            return [self.embedding[table](codes[:, i]) for i, table in enumerate(tables)]
        found: dict[int, Tensor] = {}
        for stack in self._stacks:
            vectors = stack(codes, [cast("Embedding", self.embedding[tables[place]]).weight for place in stack.columns])
            if len(stack.columns) == len(tables):
                return [vectors.flatten(1)]
            found |= zip(stack.columns, vectors.unbind(1), strict=True)
        alone = {i: self.embedding[table](codes[:, i]) for i, table in enumerate(tables) if i not in found}
        return [vectors for _, vectors in sorted({**found, **alone}.items())]

    def _bagged(self, codes: Tensor) -> Iterator[Tensor]:
        """Yield the mean or sum (B, W) of each list's embedded elements; code 0 is none, and an empty list gives 0.

        A gather and a sum over it rather than ``nn.EmbeddingBag``, which has no rule for gradients of several tasks at
        once (``vmap``).
        """
        tables = self._tables[self._categorical :]
        for table, places, kind in zip(tables, self._lists, self._bags.values(), strict=True):
            own = codes[:, places]
            vectors = self.embedding[table](own)  # (B, length, W)
            there = (own != 0).to(vectors.dtype)
            if kind == "mean":
                there = there / there.sum(1, keepdim=True).clamp(min=1)
            yield (vectors * there.unsqueeze(-1)).sum(1)


class _Tables:
    """Which embeddings there are, and whose they are.

    Attributes:
        of_columns: the number of each column's table, categories first, then lists.
        sizes: number of codes and width of each table.
    """

    def __init__(self, spec: TableSpec, embedding: int | Mapping[str, int] | None) -> None:
        columns = [*spec.categorical.items(), *((name, codes) for name, (codes, _) in spec.lists.items())]
        shared = dict.fromkeys(spec.shared.values())
        names = dict.fromkeys([*(name for name, _ in columns), *shared])
        chosen = _by_name("embedding", embedding, names, "categorical columns or lists", None)
        users: dict[str | int, list[tuple[str, int]]] = {}
        keys = [spec.shared.get(name, place) for place, (name, _) in enumerate(columns)]
        for key, column in zip(keys, columns, strict=True):
            users.setdefault(key, []).append(column)
        numbers = {key: number for number, key in enumerate(users)}
        self.of_columns = [numbers[key] for key in keys]
        self.sizes = [_size(key, own, chosen) for key, own in users.items()]


def _size(key: str | int, users: list[tuple[str, int]], chosen: Mapping[str, int | None]) -> tuple[int, int]:
    """Return number of codes and width of a table: of a name, if it is shared, and of the columns that use it."""
    table = key if isinstance(key, str) else users[0][0]
    of_codes = {codes for _, codes in users}
    widths = {width for name in (table, *(name for name, _ in users)) if (width := chosen[name]) is not None}
    if len(of_codes) > 1 or len(widths) > 1:
        raise ConfigurationError(
            f"Columns {[name for name, _ in users]} share their embeddings {table!r}: expected one number of codes and "
            f"one width as `embedding`, found {sorted(of_codes)} codes and widths {sorted(widths)}."
        )
    (codes,) = of_codes
    (width,) = check_widths(f"`embedding` of {table!r}", (next(iter(widths), embedding_width(codes)),))
    return codes, width


def _by_name(
    option: str, given: T | Mapping[str, T], names: Mapping[str, object], are: str, default: T
) -> dict[str, T]:
    """Return an option that holds for all of some columns, or is given by name, as one by name."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    if unknown := [name for name in given if name not in names]:
        raise ConfigurationError(
            f"`{option}`: expected names of {are}, {[*names]}, found {unknown}.{did_you_mean(unknown[0], [*names])}"
        )
    return {name: given.get(name, default) for name in names}


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
