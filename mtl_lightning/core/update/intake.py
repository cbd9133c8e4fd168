"""Batches as users first have them, made what a batch must be.

A loader's first batch is looked at. If it is as it should be, as those of this library's data are, no later one of that
loader is looked at again; otherwise all of them are converted alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import is_batch, is_per_dataset
from mtl_lightning.nested import leaves, map_leaves
from mtl_lightning.types import BatchError

_NUMBERS = "biuf"  # kinds of NumPy's dtypes that are numbers


class Intake:
    """Converts the batches of loaders that need it.

    Inputs and targets of NumPy, and targets in lists, become tensors; floating inputs of a dtype that no part of the
    network has get its own; ``(inputs, targets)`` becomes a dict where it is clear whose targets they are; a list of
    batches becomes a dict of them; targets that are None are left out.

    Args:
        network: what reads the inputs.
        runtime: where it runs.
    """

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self._network, self._runtime = network, runtime
        self._converts: dict[tuple[Any, ...], bool] = {}  # by stage, loader and dataset
        self._dtypes: list[torch.dtype] = []  # of the built network's floats

    def start_afresh(self) -> None:
        """Forget all loaders."""
        self._converts, self._dtypes = {}, []

    def take(self, item: Any, stage: str, loader: int = 0) -> Any:
        """Return what a loader gave, converted if its first batch had to be.

        Args:
            item: what it gave.
            stage: ``"train"``, ``"val"``, ``"test"`` or ``"predict"``, in which it may be inputs alone.
            loader: the loader's number.

        Raises:
            BatchError: that says what a batch must be.
        """
        if type(item) is dict and "inputs" in item:
            return self._take(item, (stage, loader))
        if stage == "predict" and not is_batch(item):
            return self._take(item, (stage, loader), self.inputs)
        item = by_dataset(item)
        if is_per_dataset(item):
            return {n: None if part is None else self._take(part, (stage, loader, n)) for n, part in item.items()}
        return self._take(item, (stage, loader))

    def _take(self, batch: Any, key: tuple[Any, ...], convert: Callable[[Any], Any] | None = None) -> Any:
        converts = self._converts.get(key)
        if converts is False:
            return batch
        found = (convert or self.batch)(batch)
        if converts is None and found is not batch:
            rank_zero_info(
                f"Batches of {key[0]} are converted to what a batch must be: a dict of tensors by task, with floating "
                "inputs in the network's dtype."
            )
        self._converts.setdefault(key, found is not batch)
        return batch if found is batch else self._runtime.to_device(found)

    def batch(self, batch: Any) -> Any:
        """Return a batch as it should be; itself if it is."""
        if isinstance(batch, list | tuple) and len(batch) == 2 and (self._alone or isinstance(batch[1], Mapping)):
            batch = {"inputs": batch[0], "targets": batch[1]}
        if not is_batch(batch):
            return batch  # refused where batches are read
        changed = {"inputs": self.inputs(batch["inputs"])}
        if "targets" in batch:
            changed["targets"] = self._targets(batch["targets"])
        if "weights" in batch:
            changed["weights"] = _by_name(batch["weights"], "sample weights")
        same = isinstance(batch, Mapping) and all(changed[key] is batch[key] for key in changed)
        return batch if same else {**batch, **changed}

    def inputs(self, inputs: Any) -> Any:
        """Return inputs with arrays as tensors, and with floats of a dtype that the network has."""
        if not self._dtypes and self._network.is_built:
            parameters = self._network.architecture.parameters()
            self._dtypes = list(dict.fromkeys(p.dtype for p in parameters if p.is_floating_point()))
        known = self._dtypes

        def converted(leaf: Any) -> Any:
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind in _NUMBERS:
                leaf = torch.from_numpy(leaf)
            if known and isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype not in known:
                leaf = leaf.to(known[0])
            return leaf

        changes = any(converted(leaf) is not leaf for _, leaf in leaves(inputs))
        return map_leaves(converted, inputs) if changes else inputs

    def _targets(self, targets: Any) -> Any:
        if isinstance(targets, Mapping):
            return _by_name(targets, "the target of")
        if self._alone is None or targets is None:
            return targets  # refused likewise: whose it is cannot be known
        return {self._alone: _as_tensor(targets, f"the target of {self._alone!r}")}

    @property
    def _alone(self) -> str | None:
        """The only task, if there is one."""
        names = list(self._network.tasks)
        return names[0] if len(names) == 1 else None


def by_dataset(item: Any) -> Any:
    """Return a list of batches as a dict of them, by their places; anything else as it is."""
    if isinstance(item, list | tuple) and item and all(part is None or is_batch(part) for part in item):
        return {str(index): part for index, part in enumerate(item)}
    return item


def _by_name(values: Any, what: str) -> Any:
    """Return tensors by name, or a single one, without those that are None; itself if nothing is to be changed."""
    if not isinstance(values, Mapping):
        return _as_tensor(values, what)
    made = {name: _as_tensor(value, f"{what} {name!r}") for name, value in values.items() if value is not None}
    same = len(made) == len(values) and all(made[name] is value for name, value in values.items())
    return values if same else made


def _as_tensor(value: Any, what: str) -> Tensor:
    """Return numbers (B, *) as a tensor; of a list of columns (B,), as torch collates rows of lists, (B, D)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(column, Tensor) for column in value):
        shapes = {column.shape for column in value}
        if len(shapes) == 1:
            return torch.stack([*value], dim=1 if value[0].dim() else 0)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BatchError(
            f"Expected {what} to be a tensor, found {type(value).__name__}: {value!r:.60}. Return numbers from your "
            "dataset: classes as integers, nan or -100 for a missing label."
        ) from error
