"""The window that is being filled: micro-batches that wait for the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_warn

from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import check_targets, micro_batches
from mtl_lightning.plain import is_plain
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, BatchError


class Accumulation:
    """Collects micro-batches until a window is complete.

    Args:
        runtime: whose device batches are put back on.
        tasks: whose targets batches have.

    Attributes:
        batches: the micro-batches of the started window.
    """

    process_only: ClassVar[tuple[str, ...]] = ("window",)

    def __init__(self, runtime: Runtime, tasks: Mapping[str, Task]) -> None:
        self._runtime, self._tasks = runtime, tasks
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
        """Take up a started window, on the module's device.

        Raises:
            BatchError: for a window whose batches are none.
        """
        window = state.get("window", [])
        if not isinstance(window, list):
            raise BatchError(f"Expected a list of batches as a started window, found {type(window).__name__}.")
        batches = [batch for item in window for batch in micro_batches(item, self._tasks)]
        for batch in batches:
            check_targets(batch, self._tasks)
        self.batches = [self._runtime.to_device(batch) for batch in batches]
