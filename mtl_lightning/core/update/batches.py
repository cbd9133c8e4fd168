"""The batch contract, checked: what a loader's item holds, and which part of it belongs to a task."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from mtl_lightning.core.on_device import on_device
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, BatchError, TargetError

_KEYS = ("inputs", "targets", "weights", "ids")
_SOME_KEYS = {"inputs", "targets", "ids"}
WANTED = "a batch {'inputs': ..., 'targets': {task: tensor}}"


def micro_batches(item: Any, tasks: Collection[str]) -> list[Batch]:
    """Read a loader's item as training batches: one, or one per dataset (``{name: batch}``, ``None`` skipped).

    Raises:
        BatchError: for anything else, a target that is no task, and a batch with no task at all.
    """
    if _is_plain(item, tasks):
        return [item]
    if not isinstance(item, Mapping):
        raise BatchError(
            f"Expected {WANTED} or a dict of such batches by dataset, found {type(item).__name__}. Return dicts from "
            "your dataset."
        )
    batches = [batch for batch in item.values() if batch is not None] if is_per_dataset(item) else [item]
    for batch in batches:
        _check_keys(batch, list(tasks))
    return _one_per_input(cast("list[Batch]", batches))


def _is_plain(item: Any, tasks: Collection[str]) -> bool:
    """Whether an item is a single batch with nothing to complain of, which most are."""
    if type(item) is not dict or "inputs" not in item or not item.keys() <= _SOME_KEYS:
        return False
    targets = item.get("targets")
    names = tasks.keys() if hasattr(tasks, "keys") else {*tasks}
    return type(targets) is dict and len(targets) > 0 and targets.keys() <= names


def is_batch(item: Any) -> bool:
    """Whether an item is a dict with inputs."""
    return isinstance(item, Mapping) and "inputs" in item


def is_per_dataset(item: Any) -> bool:
    """Whether a loader's item is a dict of batches by dataset."""
    if not isinstance(item, Mapping) or not item or "inputs" in item:
        return False
    return all(value is None or is_batch(value) for value in item.values())


def _one_per_input(batches: list[Batch]) -> list[Batch]:
    """Put batches with the same inputs, which are one object, together, so that the network is run on them once.

    Tensors moved to another device are no longer one object: a loader for a GPU does better to give one batch itself.
    """
    merged: list[Batch] = []
    for batch in batches:
        for index, other in enumerate(merged):
            if other["inputs"] is batch["inputs"] and not targets_of(other).keys() & targets_of(batch).keys():
                merged[index] = _joined(other, batch)
                break
        else:
            merged.append(batch)
    return merged


def _joined(first: Batch, second: Batch) -> Batch:
    """Put the targets of two batches with the same inputs into one, each with its sample weights."""
    joined: Batch = {"inputs": first["inputs"], "targets": {**targets_of(first), **targets_of(second)}}
    found = {name: weight_of(part, name) for part in (first, second) for name in targets_of(part)}
    weights = {name: weight for name, weight in found.items() if weight is not None}
    if weights:
        joined["weights"] = weights
    for batch in (second, first):
        if "ids" in batch:
            joined["ids"] = batch["ids"]
    return joined


def without_ids(batch: Batch) -> Batch:
    """Return a batch without what only travels along with its rows, which an update does not need."""
    return cast("Batch", {key: value for key, value in batch.items() if key != "ids"}) if "ids" in batch else batch


def _check_keys(batch: Mapping[str, Any], tasks: list[str]) -> None:
    if "inputs" not in batch or (unknown := [key for key in batch if key not in _KEYS]):
        raise BatchError(
            f"Expected {WANTED}, and 'weights' if there are sample weights, found the keys "
            f"{sorted(map(str, batch))}. Put what the network reads into `inputs`, targets into `targets` by task, and "
            "what else a row has into `ids`."
        )
    targets = batch.get("targets")
    if not isinstance(targets, Mapping):
        raise BatchError(
            f"Expected batch['targets'] to be a dict {{task: tensor}} of the tasks {tasks}, found "
            f"{type(targets).__name__}. Return such dicts from your dataset."
        )
    if unknown := [key for key in targets if key not in tasks]:
        raise BatchError(
            f"The batch has targets for {unknown}, which are no tasks: expected some of {tasks}. Declare them in "
            "`tasks`, or drop them in the datamodule."
        )
    if not targets:
        raise BatchError(f"The batch has targets for no task: expected some of {tasks}, found none.")
    weights = batch.get("weights")
    if isinstance(weights, Mapping) and (unknown := [key for key in weights if key not in tasks]):
        raise BatchError(f"The batch has weights for {unknown}, which are no tasks: expected some of {tasks}.")


def targets_of(batch: Batch) -> dict[str, Tensor]:
    """Return the targets of a batch, by task."""
    return batch.get("targets", {})


def weight_of(batch: Batch, task: str) -> Tensor | None:
    """Return the sample weights (B,) of a task, if there are any."""
    weights = batch.get("weights")
    return weights.get(task) if isinstance(weights, Mapping) else weights


def check_targets(batch: Batch, tasks: Mapping[str, Task]) -> None:
    """Check dtypes, shapes and values of a batch's targets and weights.

    Raises:
        TargetError: that names the task.
    """
    for name, target in targets_of(batch).items():
        try:
            if not isinstance(target, Tensor):
                raise TargetError(f"expected a tensor, as in the loader's first batch, found {type(target).__name__}.")
            tasks[name].check(target)
        except TargetError as error:
            raise TargetError(f"Task {name!r}: {error}") from None
        weight = weight_of(batch, name)
        if weight is not None and (weight.shape != target.shape[:1] or not bool((weight >= 0).all())):
            raise TargetError(
                f"Task {name!r}: expected {target.shape[0]} sample weights that are not negative, found shape "
                f"{tuple(weight.shape)} and a smallest value of {torch.min(weight).item()}."
            )


def group_batchable(batch: Batch, names: Iterable[str], tasks: Mapping[str, Task]) -> list[list[str]]:
    """Group tasks whose targets may be put into one batch: of one kind, shape and dtype, without sample weights."""
    if "weights" in batch:
        return [[name] for name in names]
    targets = targets_of(batch)
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        target = targets[name]
        groups.setdefault((tasks[name].batchable, target.shape, target.dtype), []).append(name)
    return [*groups.values()]


def in_order(values: Tensor, found: list[str], wanted: list[str]) -> Tensor:
    """Bring the entries (N,) of a vector into the order (T,) that is wanted; repeated ones are summed, others are 0."""
    if found == wanted:
        return values
    places = on_device([wanted.index(name) for name in found], values.device, torch.long)
    return values.new_zeros(len(wanted)).index_add(0, places, values)
