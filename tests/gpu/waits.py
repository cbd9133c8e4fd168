"""Operations that wait for a GPU's queue, beside reads on the host; found on the CPU by what is dispatched."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mtl_lightning

_ROOT = str(Path(mtl_lightning.__file__).parent)
_aten = torch.ops.aten
SIZED_BY_VALUES = (
    *(_aten.nonzero.default, _aten.masked_select.default, _aten._unique2.default, _aten.unique_dim.default),
    *(_aten.unique_consecutive.default, _aten.repeat_interleave.Tensor, _aten.bincount.default),
)
"""The size of the result depends on values, so the host has to know these."""
FROM_NUMBERS = (_aten.lift_fresh.default,)
"""``torch.tensor`` of Python's numbers: a copy from pageable memory, which waits for the queue."""
INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


def _place() -> str:
    ours = [frame for frame in traceback.extract_stack() if frame.filename.startswith(_ROOT)]
    return f"{Path(ours[-1].filename).name}: {ours[-1].name}" if ours else "elsewhere"


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self, found: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in SIZED_BY_VALUES or func in FROM_NUMBERS or (func in INDEXING and _by_mask(args[1])):
            place = _place()
            if place != "on_device.py: on_device":  # which does it from pinned memory
                self._found.append(place)
        return func(*args, **(kwargs or {}))


def _by_mask(indices: Sequence[Any]) -> bool:
    """Whether there is a mask among indices, whose places the host has to know."""
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


@contextmanager
def waits(found: list[str]) -> Iterator[None]:
    """Note the places of all operations that would wait for a GPU."""
    with _Waits(found):
        yield
