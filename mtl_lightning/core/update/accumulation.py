"""The window that is being filled: micro-batches that wait for the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_warn

from mtl_lightning.core.runtime import Runtime
from mtl_lightning.plain import is_plain
from mtl_lightning.types import Batch


class Accumulation:
    """Collects micro-batches until a window is complete.

    Args:
        runtime: whose device batches are put back on.

    Attributes:
        batches: the micro-batches of the started window.
    """

    process_only: ClassVar[tuple[str, ...]] = ("window",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.batches: list[Batch] = []

    def add(self, batches: list[Batch], complete: bool) -> list[Batch] | None:
        """Add micro-batches; return those of the whole window if that makes it complete, else None.

        A complete window may be empty on this process, where loaders of several datasets gave it nothing.
        """
        self.batches += batches
        if not complete:
            return None
        window, self.batches = self.batches, []
        return window

    def state_dict(self) -> dict[str, Any]:
        """Return the started window, on the CPU.

        It is empty, so that a resumed run goes on without it, if batches hold more than tensors and plain data, which
        would make the checkpoint unreadable.
        """
        window = [dict(batch) for batch in self.batches]
        if is_plain(window, tensors=True):
            return {"window": cast("list[Any]", move_data_to_device(window, torch.device("cpu")))}
        rank_zero_warn(
            "The checkpoint is written in the middle of a window whose batches hold more than tensors and plain data: "
            "they are left out, and a resumed run makes that update from the rest of the window."
        )
        return {"window": []}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a started window, on the module's device."""
        self.batches = [self._runtime.to_device(batch) for batch in state.get("window", [])]
