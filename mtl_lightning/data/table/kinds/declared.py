"""The fitters that a table's declaration asks for, by feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from mtl_lightning.data.table.columns import TableColumns, chosen_for
from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.kinds.hashed import HashedFitter
from mtl_lightning.types import ConfigurationError

__all__ = ["declared_fitters"]

_MOST = 1 << 26  # buckets


def _hashed(columns: TableColumns, name: str) -> Iterator[KindFitter]:
    buckets = chosen_for(columns.hashed, name)
    if not isinstance(buckets, int) or isinstance(buckets, bool) or not 1 <= buckets <= _MOST:
        raise ConfigurationError(
            f"`hashed: {{{name}: {buckets!r}}}`: expected a number of buckets from 1 to {_MOST}, found {buckets!r}. "
            "Take about twice the number of different ids."
        )
    yield HashedFitter(name, name, columns.missing, buckets=buckets, min_count=columns.least(name))


MAKERS: dict[str, Callable[[TableColumns, str], Iterator[KindFitter]]] = {"hashed": _hashed}
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
