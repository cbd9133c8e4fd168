"""Columns that have one vocabulary, or one set of buckets, and with it their embeddings in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.kinds.hashed import HashedFitter
from mtl_lightning.data.table.kinds.listed import ListFitter
from mtl_lightning.types import ConfigurationError

__all__ = ["unite"]


def unite(
    groups: Mapping[str, list[str]], vocabularies: Mapping[str, Counter[str]], fitters: Mapping[str, KindFitter]
) -> dict[str, Counter[str]]:
    """Give the columns of each group the counts of all of them.

    Args:
        groups: the columns by the name of their embedding table.
        vocabularies: how often each value of a plain category was met, by column.
        fitters: of other kinds, by feature; their counts are changed.

    Returns:
        The vocabularies' counts.

    Raises:
        ConfigurationError: for a column that has no codes, and one that is hashed beside one that is not.
    """
    found = dict(vocabularies)
    for group, names in groups.items():
        of_kinds = [fitters[name] for name in names if name in fitters]
        some = {name: fitters[name].kind for name in names if name in fitters}
        parts: list[Any] = [found[name] for name in names if name in found]
        for one in of_kinds:
            if not isinstance(one, HashedFitter | ListFitter):
                raise ConfigurationError(_expected(group, f"{one.feature!r}, which is of kind {one.kind!r}"))
            parts.append(one.counts)
        if other := [name for name in names if name not in found and name not in fitters]:
            raise ConfigurationError(_expected(group, f"{other[0]!r}, which is none of these"))
        sizes = {len(part) if not isinstance(part, Counter) else None for part in parts}
        if len(sizes) > 1:
            raise ConfigurationError(
                _expected(group, f"{names} with {sorted(map(str, sizes))} buckets ({some or 'categories'})")
            )
        union: Any = Counter() if None in sizes else sum(parts)
        for part in parts if None in sizes else ():
            union.update(part)
        found |= {name: union for name in names if name in found}
        for one in of_kinds:
            one.counts = union  # type: ignore[attr-defined]  # those above alone have come so far
            one.shared = group
    return found


def _expected(group: str, found: str) -> str:
    return (
        f"`share: {group}`: expected columns of categories and lists, or ids hashed into one number of buckets, found "
        f"{found}. Declare it as such, or take it out."
    )
