"""The micro-batches of one update, with their labels counted over the whole of them and all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import check_targets, group_batchable, in_order, targets_of, weight_of
from mtl_lightning.nested import leaves, map_leaves
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, BatchError, TargetError

Counts: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""Numbers of labels of each task (W, T), on the host: of the whole and, where it is to be split, of each part."""


@dataclass(frozen=True)
class Window:
    """The micro-batches of one update.

    Attributes:
        batches: the micro-batches of this process.
        counts: the number (or weight) of labelled elements of each task over the window and all processes.
        present: (T,) bool, whether there are any.
        part_counts: those of each part that the balancer wants it split into, where they were known before.
    """

    batches: Sequence[Batch]
    counts: Mapping[str, float]
    present: Tensor
    part_counts: Sequence[Mapping[str, float]] = ()

    @classmethod
    def counted(
        cls,
        batches: Sequence[Batch],
        tasks: Mapping[str, Task],
        runtime: Runtime,
        known: Counts | None = None,
        parts: int = 1,
    ) -> Window:
        """Count the labels of some micro-batches, before any forward.

        It waits for the device unless every process's counts are known.

        Args:
            batches: the micro-batches of this process.
            tasks: the tasks by name.
            runtime: where it runs.
            known: this process's counts (W, T), where they were taken before the batches went to the device: of the
                whole and, with ``parts``, of each.
            parts: into how many parts it is going to be split.

        Raises:
            TargetError: that says what is wrong with which task's target.
        """
        found = _known_everywhere(batches, known, runtime, (parts + 1 if parts > 1 else 1, len(tasks)))
        if found is None:
            counts, *of_parts = [_counted_on_device(batches, tasks, runtime, known)]
        else:
            counts, *of_parts = [dict(zip(tasks, row, strict=True)) for row in found.tolist()]
        return cls(batches, counts, _mask(counts, runtime), of_parts)

    @cached_property
    def names(self) -> list[str]:
        """The tasks that are present, on any process."""
        return [name for name, count in self.counts.items() if count]

    @cached_property
    def present_indices(self) -> list[int]:
        """The places of the tasks that are present among all tasks."""
        return [index for index, count in enumerate(self.counts.values()) if count]

    def names_in(self, batch: Batch) -> list[str]:
        """Return the tasks that are present and have a target in a micro-batch, labelled or not.

        Whether it is labelled there must not matter, so that every process builds the same graph.
        """
        targets = targets_of(batch)
        return [name for name in self.names if name in targets]

    def split(self, parts: int, tasks: Mapping[str, Task], runtime: Runtime) -> list[Window]:
        """Cut each micro-batch into so many consecutive parts of its rows; the n-th parts make the n-th window.

        Raises:
            BatchError: if a micro-batch has fewer rows than parts, or inputs that hold more than tensors.
        """
        if parts == 1:
            return [self]
        pieces = [split_batch(batch, parts) for batch in self.batches]
        windows = [[batch[part] for batch in pieces] for part in range(parts)]
        if len(self.part_counts) != parts:
            return [Window.counted(batches, tasks, runtime) for batches in windows]
        counted = zip(windows, self.part_counts, strict=True)
        return [Window(batches, counts, _mask(counts, runtime)) for batches, counts in counted]


def _mask(counts: Mapping[str, float], runtime: Runtime) -> Tensor:
    return runtime.mask(tuple(count > 0 for count in counts.values()))


def _known_everywhere(
    batches: Sequence[Batch], known: Counts | None, runtime: Runtime, shape: tuple[int, int]
) -> Counts | None:
    """Return the counts (W, T) over all processes, summed on the host; None unless each of them knows its own.

    Every process takes part, whatever it knows.
    """
    if known is None and not batches:
        known = np.zeros(shape)  # nothing came from the loaders of this process
    if runtime.world_size == 1:
        return None if known is None else known[: shape[0]]
    numbers = np.zeros(shape[0] * shape[1] + 1)
    if known is None:
        numbers[-1] = 1
    else:
        numbers[:-1] = known[: shape[0]].reshape(-1)
    if not runtime.sum_on_host(numbers) or numbers[-1]:
        return None
    return numbers[:-1].reshape(shape)


def _counted_on_device(
    batches: Sequence[Batch], tasks: Mapping[str, Task], runtime: Runtime, known: Counts | None
) -> dict[str, float]:
    """Return the counts by task, over all processes. An invalid value makes a count nan, and is reported here."""
    if known is not None:
        local = torch.from_numpy(known[0]).to(runtime.device)
    else:
        local = local_counts(batches, tasks) if batches else torch.zeros(len(tasks), device=runtime.device)
    counts: list[float] = runtime.all_sum(local).tolist()
    if any(map(math.isnan, counts)):
        for batch in batches:
            check_targets(batch, tasks)
        bad = [name for name, count in zip(tasks, counts, strict=True) if math.isnan(count)]
        raise TargetError(f"The targets or weights of {bad} hold an invalid value, on this process or another one.")
    return dict(zip(tasks, counts, strict=True))


def local_counts(batches: Sequence[Batch], tasks: Mapping[str, Task]) -> Tensor:
    """Return the counts (T,) of at least one micro-batch of this process, on the targets' device; nan if invalid.

    Raises:
        TargetError: for targets of a wrong dtype or shape.
    """
    order: list[str] = []
    parts: list[Tensor] = []
    try:
        for batch in batches:
            for names in group_batchable(batch, targets_of(batch), tasks):
                parts.append(_count(batch, names, tasks))
                order += names
    except (TargetError, AttributeError, TypeError):  # a wrong dtype or shape, or no tensor
        for batch in batches:
            check_targets(batch, tasks)  # names the task
        raise
    return in_order(torch.cat(parts), order, [*tasks])


def _count(batch: Batch, names: list[str], tasks: Mapping[str, Task]) -> Tensor:
    """Return the counts (N,) of N tasks that may be counted together, or of a single one."""
    targets, task = targets_of(batch), tasks[names[0]]
    if len(names) == 1:
        return task.count(targets[names[0]], weight_of(batch, names[0])).reshape(1)
    return task.count_together([targets[name] for name in names])


def split_batch(batch: Batch, parts: int) -> list[Any]:
    """Cut a micro-batch into so many consecutive parts of its rows.

    Raises:
        BatchError: if it has fewer rows than parts, or inputs that hold more than tensors.
    """
    rows = _rows(batch)
    if rows < parts:
        raise BatchError(
            f"The balancer splits each batch into {parts} parts: expected at least {parts} rows, found {rows}. Use "
            "larger batches, or `drop_last: true` in the datamodule."
        )
    edges = [rows * part // parts for part in range(parts + 1)]
    cuts = [slice(*edges[part : part + 2]) for part in range(parts)]
    return [map_leaves(lambda leaf, cut=cut: leaf[cut], batch) for cut in cuts]


def _rows(batch: Batch) -> int:
    """Return the number of rows of a batch, which holds nothing but tensors."""
    found = [leaf for _, leaf in leaves(batch)]
    if foreign := [type(leaf).__name__ for leaf in found if not isinstance(leaf, Tensor)]:
        raise BatchError(
            "The balancer splits each batch into parts: expected inputs of tensors, in dicts, lists or tuples, found "
            f"{foreign[0]}. Use a balancer that needs no parts."
        )
    return len(found[0])
