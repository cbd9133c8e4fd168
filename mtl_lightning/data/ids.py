"""What travels along with the rows of a batch under ``ids``: tensors, NumPy arrays, lists, or dicts of such."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_lightning.types import ConfigurationError


def map_ids(function: Callable[..., Any], *ids: Any) -> Any:
    """Apply a function to the values of the rows, in dicts one by one; a list is one value for each row."""
    first = ids[0]
    if isinstance(first, Mapping):
        return {name: map_ids(function, *(other[name] for other in ids)) for name in first}
    return function(*ids)


def lengths_of(ids: Any, place: str = "ids") -> Iterator[tuple[str, int]]:
    """Yield each place in ids and how many rows it is of."""
    if isinstance(ids, Mapping):
        for name, value in ids.items():
            yield from lengths_of(value, f"{place}.{name}")
    elif isinstance(ids, Tensor | np.ndarray | list | tuple):
        yield place, len(ids)
    else:
        raise ConfigurationError(
            f"`{place}`: expected a tensor, a NumPy array or a list with an entry for each row, or a dict of such, "
            f"found {type(ids).__name__}."
        )


def taken(ids: Any, rows: Tensor) -> Any:
    """Return the ids of some rows (M,) int64, in their order."""

    def take(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values.index_select(0, rows)
        return values[rows.numpy()] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]

    return map_ids(take, ids)


def sliced(ids: Any, start: int, end: int) -> Any:
    """Return copies of the ids from one row to another."""
    return map_ids(lambda values: values[start:end].clone() if isinstance(values, Tensor) else values[start:end], ids)


def joined(parts: Sequence[Any]) -> Any:
    """Return ids one below the other."""

    def join(*values: Any) -> Any:
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        return np.concatenate(values) if isinstance(values[0], np.ndarray) else [one for part in values for one in part]

    return map_ids(join, *parts)


def without_ids(batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a batch without its ids, and ``{"ids": ...}``, empty if it has none."""
    rest = {key: value for key, value in batch.items() if key != "ids"}
    return rest, {"ids": batch["ids"]} if "ids" in batch else {}
