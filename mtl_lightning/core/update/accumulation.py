"""The window that is being filled: micro-batches that wait for the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import check_targets, micro_batches, targets_of, without_ids
from mtl_lightning.core.update.window import Counts
from mtl_lightning.plain import is_plain
from mtl_lightning.types import Batch, BatchError, TensorSpec


class Accumulation:
    """Collects micro-batches until a window is complete.

    Args:
        runtime: whose device batches are put back on.
        network: whose inputs and targets batches have.

    Attributes:
        batches: the micro-batches of the started window.
    """

    process_only: ClassVar[tuple[str, ...]] = ("window",)

    def __init__(self, runtime: Runtime, network: Network) -> None:
        self._runtime, self._network = runtime, network
        self.batches: list[Batch] = []
        self._counts: Counts | None = None  # of all of them, where each was counted
        self._counted = True

    def start_afresh(self) -> None:
        """Forget the started window."""
        self.batches, self._counts, self._counted = [], None, True

    def add(
        self, batches: list[Batch], complete: bool, counts: Counts | None = None
    ) -> tuple[list[Batch], Counts | None] | None:
        """Add micro-batches; return those of the whole window if that makes it complete, else None.

        A complete window may be empty on this process, where loaders of several datasets gave it nothing.

        Args:
            batches: the micro-batches.
            complete: whether they are the window's last ones.
            counts: their labels (W, T), where they were counted before they went to the device; those of the whole
                window are returned if all of it was.
        """
        self.batches += [without_ids(batch) for batch in batches]
        self._counted = self._counted and counts is not None
        self._counts = counts if self._counts is None or counts is None else self._counts + counts
        if not complete:
            return None
        window, known = self.batches, self._counts if self._counted else None
        self.start_afresh()
        return window, known

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
        batches = [batch for item in window for batch in micro_batches(item, self._network.tasks)]
        for batch in batches:
            check_targets(batch, self._network.tasks)
            self._check_inputs(batch)
        self.batches = [self._runtime.to_device(batch) for batch in batches]
        self._counts, self._counted = None, not batches

    def _check_inputs(self, batch: Batch) -> None:
        """Refuse a tensor of inputs of another shape than the network's, or than the targets' rows."""
        spec, inputs = self._network.input_spec, batch["inputs"]
        if not isinstance(spec, TensorSpec):
            return
        found = tuple(inputs.shape) if isinstance(inputs, Tensor) else (type(inputs).__name__,)
        fits = len(found) == len(spec.shape) + 1 and all(
            size in (None, there) for size, there in zip(spec.shape, found[1:], strict=True)
        )
        if not fits:
            raise BatchError(f"Expected inputs of shape (B, {', '.join(map(str, spec.shape))}), found {found}.")
        for name, target in targets_of(batch).items():
            if len(target) != found[0]:
                raise BatchError(
                    f"Expected targets of {name!r} for {found[0]} rows, found those of {len(target)} rows."
                )
