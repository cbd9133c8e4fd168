"""Columns that look like lists, vectors or free text where nothing is declared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mtl_lightning.data.table.columns import TableColumns
from mtl_lightning.data.table.kind_columns import ListColumn, TextColumn
from mtl_lightning.data.table.kinds.base import KindFitter
from mtl_lightning.data.table.kinds.declared import list_fitter, text_fitter
from mtl_lightning.data.table.kinds.vector import VectorFitter
from mtl_lightning.data.table.profile import Profile
from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.kinds.elements import is_list, json_list
from mtl_lightning.encoding.kinds.text import words_of

__all__ = ["Guessed", "by_texts", "by_type"]

_WORDS = 3  # of a cell, in the mean, that free text has


class Guessed(NamedTuple):
    """What fits a column that nobody declared, and the words for it."""

    fitter: KindFitter
    why: str
    doubt: str = ""


def by_type(columns: TableColumns, name: str, kind: Any) -> Guessed | None:
    """Return what a column of an Arrow type is taken for; None for one that holds no lists."""
    if not is_list(kind):
        return None
    numeric = pa.types.is_floating(kind.value_type)
    if numeric or (pa.types.is_fixed_size_list(kind) and pa.types.is_integer(kind.value_type)):
        doubt = "" if numeric else f"`lists: [{name}]` if they are codes"
        return Guessed(VectorFitter(name, name, columns.missing), "lists of numbers", doubt)
    doubt = f"`vectors: [{name}]` if they are amounts" if pa.types.is_integer(kind.value_type) else ""
    return Guessed(list_fitter(columns, name, ListColumn()), "lists", doubt)


def by_texts(columns: TableColumns, name: str, profile: Profile, *, repeats: bool) -> Guessed | None:
    """Return what a column of different texts is taken for, fitted to them: lists in JSON, or free text where they
    seldom repeat and have several words; None for none of these.

    Args:
        columns: the declaration.
        name: the column.
        profile: what was met in it.
        repeats: whether the texts repeat often enough to be categories.
    """
    if not profile.is_counted or not profile.counts:
        return None
    if (found := _in_json(columns, name, [*profile.counts])) is None:
        if repeats:
            return None
        words = sum(len(words_of(text)) * count for text, count in profile.counts.items())
        if words < _WORDS * profile.present:
            return None
        why = f"text that seldom repeats, {words / profile.present:.3g} words in the mean"
        doubt = f"`ignore: [{name}]` if it says nothing, `categorical: [{name}]` if its texts are categories"
        found = Guessed(text_fitter(columns, name, TextColumn()), why, doubt)
    replay(found.fitter, profile.counts)
    found.fitter.rows, found.fitter.absent = profile.rows, profile.absent
    return found


def _in_json(columns: TableColumns, name: str, texts: Sequence[str]) -> Guessed | None:
    if not all(text.startswith("[") for text in texts):
        return None
    try:
        for text in texts:
            json_list(text)
    except CellError:
        return None
    lists = [json.loads(text) for text in texts]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for some in lists for one in some)
    if numbers and lists[0] and len({len(some) for some in lists}) == 1:
        fitter = VectorFitter(name, name, columns.missing)
        return Guessed(fitter, "lists of numbers in JSON", f"`lists: [{name}]` if they are codes")
    return Guessed(list_fitter(columns, name, ListColumn()), "lists in JSON")


def replay(fitter: KindFitter, counts: Counter[str]) -> None:
    """Show a fitter texts that were counted, each as often as it was met."""
    indices = np.repeat(np.arange(len(counts), dtype=np.int32), np.fromiter(counts.values(), dtype=np.int64))
    column = pa.DictionaryArray.from_arrays(pa.array(indices), pa.array([*counts], pa.string()))
    fitter.update((column,), lambda _: "a row of the training split")
