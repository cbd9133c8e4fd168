"""The batch contract, checked: what a loader's item holds, and which part of it belongs to a task."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, BatchError, ConfigurationError, TargetError

_KEYS = ("inputs", "targets", "weights")


def micro_batches(item: Any, tasks: Iterable[str]) -> list[Batch]:
    """Read a loader's item as training batches: one, or one per dataset (``{name: batch}``, ``None`` skipped).

    Raises:
        BatchError: for anything else, a target that is no task, and a batch with no task at all.
    """
    if not isinstance(item, Mapping):
        raise BatchError(
            "Expected a batch {'inputs': ..., 'targets': {task: tensor}} or a dict of such batches by dataset, found "
            f"{type(item).__name__}. Return dicts from your dataset."
        )
    batches = [batch for batch in item.values() if batch is not None] if _several(item) else [item]
    for batch in batches:
        _check_keys(batch, list(tasks))
    return _one_per_input(cast("list[Batch]", batches))


def _several(item: Any) -> bool:
    """Whether a loader's item is a dict of batches by dataset."""
    if not isinstance(item, Mapping) or not item or "inputs" in item:
        return False
    return all(value is None or (isinstance(value, Mapping) and "inputs" in value) for value in item.values())


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
    return {**joined, "weights": weights} if weights else joined


def _check_keys(batch: Mapping[str, Any], tasks: list[str]) -> None:
    if "inputs" not in batch or (unknown := [key for key in batch if key not in _KEYS]):
        raise BatchError(
            f"A batch has the keys 'inputs', 'targets' and perhaps 'weights': found {sorted(map(str, batch))}."
        )
    targets = batch.get("targets")
    if not isinstance(targets, Mapping):
        raise BatchError(f"Expected batch['targets'] to be a dict {{task: tensor}}, found {type(targets).__name__}.")
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
    places = torch.tensor([wanted.index(name) for name in found], dtype=torch.long, device=values.device)
    return values.new_zeros(len(wanted)).index_add(0, places, values)


def first_batch(trainer: Trainer) -> Batch:
    """Return the first batch of the data that the trainer is about to run on; the random state stays as it was."""
    data = getattr(trainer, "datamodule", None)
    running = trainer.state.fn.value if trainer.state.fn is not None else "fit"
    stage = {"fit": "train", "validate": "val"}.get(running, running)
    loader = None
    if data is not None:
        loader = getattr(data, f"{stage}_dataloader")()
    elif running == "fit":
        loader = trainer.fit_loop._data_source.instance
    if loader is None or callable(getattr(loader, "training_step", None)):
        raise ConfigurationError(
            "The network's sizes are read off the data, which cannot be reached from here: expected an `input_spec`, "
            "a datamodule, or a loader passed to `fit`."
        )
    while isinstance(loader, Mapping | list | tuple):
        loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader))
    with torch.random.fork_rng(devices=[]):
        batch = next(iter(loader))
    if _several(batch):
        batch = next((part for part in batch.values() if part is not None), {})
    return cast("Batch", batch if isinstance(batch, Mapping) and "inputs" in batch else {"inputs": batch})


class LabelWatch:
    """Notices a task that nobody labels: a misspelt key looks just like missing labels."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = tasks
        self.keys: set[str] = set()
        self.labelled: set[str] = set()
        self._whole_epoch = False

    def see(self, batches: list[Batch], batch_idx: int) -> None:
        """Note a batch's keys; the first one's targets are checked in full."""
        for batch in batches:
            if not self.keys:
                check_targets(batch, self.tasks)
        self.keys.update(key for batch in batches for key in targets_of(batch))
        self._whole_epoch |= batch_idx == 0

    def check_epoch(self, trainer: Trainer, allowed: Iterable[str]) -> None:
        """Raise a :class:`ConfigurationError` if a task had no label, on any process, in a whole epoch."""
        whole = self._whole_epoch and trainer.is_last_batch and trainer.limit_train_batches == 1.0
        missing = [task for task in self.tasks if task not in self.labelled and task not in allowed]
        self._whole_epoch = False
        if missing and whole and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set outside its __init__
            raise ConfigurationError(
                f"The tasks {missing} had no label in a whole epoch: expected targets under these names, found the "
                f"keys {sorted(self.keys)}. Fix the names, or list the tasks in `allow_unlabelled`."
            )
