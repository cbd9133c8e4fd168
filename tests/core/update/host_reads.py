"""Reads of tensors on the host, each of which would wait for all queued work of a GPU, counted on the CPU."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mtl_lightning
from mtl_lightning.core import host_number

METHODS = ("tolist", "numpy", "cpu", "item", "__bool__")
"""What reads a tensor; some of them, such as ``tolist``, do so behind the dispatcher's back."""
_ROOT = str(Path(mtl_lightning.__file__).parent)


def place() -> str:
    """Where the library, or else the test, reads: file and function."""
    own = (__file__, host_number.__file__)  # that reads for others
    frames = [frame for frame in traceback.extract_stack() if frame.filename not in own]
    ours = [frame for frame in frames if frame.filename.startswith(_ROOT)]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}: {frame.name}"


class NotedOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Notes the places of some operations.

    Args:
        found: where to note them.
        place: tells the place of an operation, given it and its arguments; None if it is none of these.
    """

    def __init__(self, found: list[str], place: Callable[[Any, Sequence[Any]], str | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._found, self._place = found, place

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        place = self._place(func, args)
        if place is not None:
            self._found.append(place)
        return func(*args, **(kwargs or {}))


def _scalar(func: Any, args: Sequence[Any]) -> str | None:
    """Where a tensor becomes a number of Python."""
    return place() if func is torch.ops.aten._local_scalar_dense.default else None


@contextmanager
def host_reads(found: list[str]) -> Iterator[None]:
    """Note the places of all reads; a read that is seen in two ways is noted twice."""

    def noting(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def noted(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(place())
            return method(self, *args, **kwargs)

        return noted

    own = {name: getattr(Tensor, name) for name in METHODS}
    for name, method in own.items():
        setattr(Tensor, name, noting(method))
    try:
        with NotedOperations(found, _scalar):
            yield
    finally:
        for name, method in own.items():
            setattr(Tensor, name, method)
