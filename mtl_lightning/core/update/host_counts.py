"""Labels counted on the loader's tensors, before they go to the device: reading these waits for none of its work.

The counts of a batch are used only if its targets are those that were counted: nothing of the user's stands between the
loader and the update that may have changed them. All other batches are counted on the device, as the update finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mtl_lightning.core.update.batches import group_batchable, micro_batches, targets_of
from mtl_lightning.core.update.window import Counts, local_counts, split_batch
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, BatchError


class HostCounts:
    """Counts the labels of one batch at a time, from when it leaves the loader until the update takes it.

    Args:
        tasks: the tasks by name.
        parts: into how many parts of its rows the balancer wants each batch split.
        fast_paths: whether one look may tell that no label is missing.
    """

    def __init__(self, tasks: Mapping[str, Task], parts: int = 1, fast_paths: bool = True) -> None:
        self._tasks, self._parts, self._fast_paths = tasks, parts, fast_paths
        self._counts: Counts | None = None
        self._moved: list[tuple[Tensor, int]] = []
        self._possible = True

    def start_afresh(self) -> None:
        """Forget the batch, and that some could not be counted."""
        self._counts, self._moved, self._possible = None, [], True

    def count(self, item: Any) -> None:
        """Count what a loader gave, if it is a batch, or several by dataset, with targets on the CPU."""
        self._counts, self._moved = None, []
        if not self._possible:
            return
        try:
            batches = micro_batches(item, self._tasks)
            if [tensor for batch in batches for tensor in _labels(batch) if not tensor.is_cpu]:
                return
            counts = self._counted(batches)
        except Exception:  # what is to be converted, or is wrong, which is told once the update takes it; a user's task
            self._possible = False  # with buffers on the device
            return
        self._counts = None if np.isnan(counts).any() else counts

    def _counted(self, batches: Sequence[Batch]) -> Counts:
        """Return the counts (W, T) of a whole and its parts; nan where it cannot be split, as the update will say."""
        windows: list[Sequence[Batch]] = [batches]
        if self._parts > 1:
            try:
                pieces = [split_batch(batch, self._parts) for batch in batches]
            except BatchError:
                return np.full((1, len(self._tasks)), np.nan)
            windows += [[batch[part] for batch in pieces] for part in range(self._parts)]
        return np.stack([self._of(window) for window in windows])

    def _of(self, batches: Sequence[Batch]) -> Counts:
        """Return the counts (T,) of some batches."""
        whole = self._whole(batches) if self._fast_paths else None
        return local_counts(batches, self._tasks).numpy() if whole is None else whole

    def _whole(self, batches: Sequence[Batch]) -> Counts | None:
        """Return the counts (T,) of a single batch if one look at each kind of task says that no label is missing."""
        if len(batches) != 1 or batches[0].get("weights") is not None:
            return None
        targets, found = targets_of(batches[0]), dict.fromkeys(self._tasks, 0.0)
        for names in group_batchable(batches[0], targets, self._tasks):
            count = self._tasks[names[0]].whole_counts([targets[name] for name in names])
            if count is None:
                return None
            found.update(dict.fromkeys(names, count))
        return np.array([*found.values()], np.float32)

    def follow(self, item: Any) -> None:
        """Note what became of the batch that was counted, which is the next to be moved, on the device."""
        if self._counts is not None and not self._moved:
            self._moved = _versions(micro_batches(item, self._tasks))

    def take(self, item: Any) -> Counts | None:
        """Return the counts (W, T) of the batch that the update is given; None if another one may have been counted."""
        counts, moved, self._counts, self._moved = self._counts, self._moved, None, []
        if counts is None or not moved:
            return None
        try:
            found = _versions(micro_batches(item, self._tasks))
        except BatchError:  # of what a callback has put in its place, which may yet be converted
            return None
        same = len(found) == len(moved) and all(
            a is b and version == before for (a, version), (b, before) in zip(found, moved, strict=True)
        )
        return counts if same else None


def _labels(batch: Batch) -> list[Tensor]:
    """Return all that counts depend on: targets and weights."""
    weights: Any = batch.get("weights")
    if weights is None:
        return [*targets_of(batch).values()]
    return [*targets_of(batch).values(), *(weights.values() if isinstance(weights, Mapping) else [weights])]


def _versions(batches: Sequence[Batch]) -> list[tuple[Tensor, int]]:
    """Return targets and weights, each with how often it was changed in place; nothing if that is not known."""
    tensors = [tensor for batch in batches for tensor in _labels(batch)]
    if not all(isinstance(tensor, Tensor) and not tensor.is_inference() for tensor in tensors):
        return []
    return [(tensor, tensor._version) for tensor in tensors]
