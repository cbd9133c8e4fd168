"""The fitters that a table's declaration asks for, by feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from mtl_lightning.data.table.columns import TableColumns, chosen_for
from mtl_lightning.data.table.kind_columns import ListColumn, TextColumn
from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.kinds.hashed import HashedFitter
from mtl_lightning.data.table.kinds.listed import ListFitter
from mtl_lightning.data.table.kinds.text import TextFitter
from mtl_lightning.data.table.kinds.vector import VectorFitter
from mtl_lightning.types import ConfigurationError

__all__ = ["declared_fitters", "list_fitter", "text_fitter"]

_MOST = 1 << 26  # buckets


def _checked(buckets: object, where: str) -> int:
    if not isinstance(buckets, int) or isinstance(buckets, bool) or not 1 <= buckets <= _MOST:
        raise ConfigurationError(
            f"`{where}`: expected a number of buckets from 1 to {_MOST}, found {buckets!r}. Take about twice the "
            "number of different values."
        )
    return buckets


def _hashed(columns: TableColumns, name: str) -> Iterator[KindFitter]:
    buckets = columns.buckets_of(name)
    size = _checked(buckets, f"hashed: {{{name}: {buckets!r}}}")
    yield HashedFitter(name, name, columns.missing, buckets=size, min_count=columns.least(name))


def list_fitter(columns: TableColumns, name: str, how: ListColumn) -> ListFitter:
    """Return what fits a column of lists."""
    buckets = columns.buckets_of(name, how.buckets)
    return ListFitter(
        name,
        name,
        columns.missing,
        separator=how.separator,
        length=how.length,
        min_count=columns.least(name),
        buckets=None if buckets is None else _checked(buckets, f"lists: {{{name}: {{buckets: {buckets!r}}}}}"),
    )


def text_fitter(columns: TableColumns, name: str, how: TextColumn) -> TextFitter:
    """Return what fits a column of free text."""
    buckets = _checked(how.buckets, f"text: {{{name}: {{buckets: {how.buckets!r}}}}}")
    ngrams = None if how.ngrams is None else (how.ngrams[0], how.ngrams[1])
    least = columns.least(name)
    return TextFitter(name, name, columns.missing, buckets=buckets, length=how.length, ngrams=ngrams, min_count=least)


def _lists(columns: TableColumns, name: str) -> Iterator[KindFitter]:
    yield list_fitter(columns, name, chosen_for(columns.lists, name))


def _text(columns: TableColumns, name: str) -> Iterator[KindFitter]:
    yield text_fitter(columns, name, chosen_for(columns.text, name))


def _vectors(columns: TableColumns, name: str) -> Iterator[KindFitter]:
    yield VectorFitter(name, name, columns.missing, separator=chosen_for(columns.vectors, name))


MAKERS: dict[str, Callable[[TableColumns, str], Iterator[KindFitter]]] = {
    "hashed": _hashed,
    "lists": _lists,
    "text": _text,
    "vectors": _vectors,
}
"""By the argument of :class:`TableColumns` that names a column: what makes its features' fitters."""


def declared_fitters(columns: TableColumns, kinds: Mapping[str, Sequence[str]]) -> dict[str, KindFitter]:
    """Return the fitters by feature.

    Args:
        columns: the declaration.
        kinds: the columns that each of its arguments names.

    Raises:
        ConfigurationError: for an option that cannot be.
    """
    made = (one for what, names in kinds.items() for name in names for one in MAKERS[what](columns, name))
    return {fitter.feature: fitter for fitter in made}
