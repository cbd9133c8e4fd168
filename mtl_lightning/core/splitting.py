"""A window cut into equal parts along its rows, for balancers that want independent samples of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mtl_lightning.types import Batch, BatchError


def split_window(window: Sequence[Batch], parts: int) -> list[list[Batch]]:
    """Cut each micro-batch into so many consecutive parts of its rows; the n-th parts make the n-th window.

    Raises:
        BatchError: if a micro-batch has fewer rows than parts, or inputs that hold more than tensors.
    """
    if parts == 1:
        return [list(window)]
    pieces = [_split(batch, parts) for batch in window]
    return [[batch[part] for batch in pieces] for part in range(parts)]


def _split(batch: Batch, parts: int) -> list[Any]:
    rows = _rows(batch)
    if rows < parts:
        raise BatchError(
            f"The balancer splits each batch into {parts} parts: expected at least {parts} rows, found {rows}. Use "
            "larger batches, or `drop_last`."
        )
    edges = [rows * part // parts for part in range(parts + 1)]
    return [_slice(batch, slice(*edges[part : part + 2])) for part in range(parts)]


def _rows(value: Any) -> int:
    while not isinstance(value, Tensor):
        parts = list(value.values()) if isinstance(value, Mapping) else value
        if not isinstance(parts, list | tuple) or not parts:
            raise _not_tensors(value)
        value = parts[0]
    return len(value)


def _slice(value: Any, rows: slice) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, Mapping):
        return {key: _slice(entry, rows) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_slice(entry, rows) for entry in value)
    raise _not_tensors(value)


def _not_tensors(value: Any) -> BatchError:
    return BatchError(
        "The balancer splits each batch into parts: expected inputs of tensors, in dicts, lists or tuples, found "
        f"{type(value).__name__}. Use a balancer that needs no parts."
    )
