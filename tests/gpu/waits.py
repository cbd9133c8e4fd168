"""Operations that wait for a GPU's queue, beside reads on the host; found on the CPU by what is dispatched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.core.update.host_reads import NotedOperations, place

_aten = torch.ops.aten
SIZED_BY_VALUES = (
    *(_aten.nonzero.default, _aten.masked_select.default, _aten._unique2.default, _aten.unique_dim.default),
    *(_aten.unique_consecutive.default, _aten.repeat_interleave.Tensor, _aten.bincount.default),
)
"""The size of the result depends on values, so the host has to know these."""
FROM_NUMBERS = (_aten.lift_fresh.default,)
"""``torch.tensor`` of Python's numbers: a copy from pageable memory, which waits for the queue."""
INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


def _waiting(func: Any, args: Sequence[Any]) -> str | None:
    """Where an operation waits; `on_device` does it from pinned memory."""
    if func not in SIZED_BY_VALUES and func not in FROM_NUMBERS and not (func in INDEXING and _by_mask(args[1])):
        return None
    found = place()
    return None if found == "on_device.py: on_device" else found


def _by_mask(indices: Sequence[Any]) -> bool:
    """Whether there is a mask among indices, whose places the host has to know."""
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


@contextmanager
def waits(found: list[str]) -> Iterator[None]:
    """Note the places of all operations that would wait for a GPU."""
    with NotedOperations(found, _waiting):
        yield
