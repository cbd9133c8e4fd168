"""The rows of one split: in memory, or any map dataset, fetched a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from mtl_lightning.data.ids import lengths_of, map_ids, taken
from mtl_lightning.data.seeding import mixed_seed, random_state_of
from mtl_lightning.nested import leaves, map_leaves
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.types import Batch, ConfigurationError

PADDING = -1  # the index of a row that is not there


class TensorRows(Dataset[Batch]):
    """Rows held in tensors; a batch is one index operation per tensor.

    Args:
        inputs: a tensor (N, *), or a dict of such.
        targets: one tensor (N, *) per task, a missing label as in :class:`~mtl_lightning.types.Batch`.
        weights: sample weights, (N,) for all tasks or one (N,) per task.
        ids: what travels along with the rows: a tensor (N, *), a NumPy array, a list, or a dict of such.

    Raises:
        ConfigurationError: if they differ in N.
    """

    deterministic = True  # nothing is drawn when a row is read, so no random state needs setting

    def __init__(
        self,
        inputs: Tensor | dict[str, Tensor],
        targets: dict[str, Tensor],
        weights: Tensor | dict[str, Tensor] | None = None,
        ids: Any = None,
    ) -> None:
        self._ids = ids
        self._columns: dict[str, Any] = {"inputs": inputs, "targets": dict(targets)}
        if weights is not None:
            self._columns["weights"] = weights
        lengths = {".".join(map(str, place)): len(tensor) for place, tensor in leaves(self._columns)}
        lengths |= dict(lengths_of(ids) if ids is not None else ())
        if len(set(lengths.values())) != 1:
            raise ConfigurationError(f"Expected tensors with the same number of rows, found {lengths}.")
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Batch:
        found = cast("Batch", map_leaves(lambda column: column[row], self._columns))
        if self._ids is not None:
            found["ids"] = map_ids(lambda values: values[row], self._ids)
        return found

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        index = torch.tensor(rows, dtype=torch.int64)
        found = cast("Batch", map_leaves(lambda column: column.index_select(0, index), self._columns))
        if self._ids is not None:
            found["ids"] = taken(self._ids, index)
        return found


class BatchRows(Dataset[Batch]):
    """A map dataset as the loader reads it: whole batches, blank rows, random numbers that can be repeated.

    ``__getitems__`` takes row indices and returns one batch. At an index of :data:`PADDING` it puts a copy of row 0
    with every label missing. A dataset that draws random numbers (augmentation) draws them from the global Python,
    NumPy and torch states, which are set for each batch from (seed, epoch, first row of the batch) and put back: the
    same numbers come whatever the number of workers, and after a resume. A random generator that the dataset keeps
    for itself is not reset.

    Args:
        dataset: rows ``{"inputs": ..., "targets": {task: ...}}``. Its ``__getitems__``, if it has one, may return a
            list of rows or a whole batch. With a true attribute ``deterministic`` no random state is set.
        seed: of the random numbers.
        missing: the missing label of each task's integer target; targets of other names are left out. By default
            every target is kept, with -100. A missing float label is always nan.
        collate: makes a batch of a list of rows; torch's default otherwise.
        shared: keep the epoch where worker processes see it change.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        seed: int = 0,
        missing: Mapping[str, int] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        shared: bool = False,
    ) -> None:
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise ConfigurationError(
                f"Expected a map dataset, which has `__len__` and `__getitem__`, found {type(dataset).__name__}: only "
                "rows that can be counted and picked have an order to shuffle and to resume."
            )
        self.dataset = dataset
        self.seed = seed
        self.missing = None if missing is None else dict(missing)
        self.collate = default_collate if collate is None else collate
        self._epoch = torch.zeros((), dtype=torch.int64)
        if shared:
            self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch that the next batches belong to."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(cast("Sized", self.dataset))

    def __getitem__(self, row: int) -> Any:
        return self.dataset[row]

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Any]:
        if getattr(self.dataset, "deterministic", False):
            batch = self._fetch(rows)
        else:
            with random_state_of(mixed_seed(self.seed, int(self._epoch), rows[0])):
                batch = self._fetch(rows)
        if self.missing is not None:
            batch = only_tasks(batch, self.missing)
        return _blanked(batch, rows, self.missing or {}) if min(rows) == PADDING else batch

    def _fetch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Read a batch; row 0 stands in for a row that is not there."""
        present = [max(row, 0) for row in rows] if min(rows) == PADDING else rows
        fetch = getattr(self.dataset, "__getitems__", None)
        found = [self.dataset[row] for row in present] if fetch is None else fetch(present)
        batch = found if isinstance(found, Mapping) else self.collate(found)
        if not isinstance(batch, Mapping):
            raise ConfigurationError(
                f"{type(self.dataset).__name__}: expected rows {{'inputs': ..., 'targets': {{task: ...}}}}, found a "
                f"batch of type {type(batch).__name__}."
            )
        return dict(batch)


def without_labels(target: Tensor, rows: Tensor, missing: int = MISSING) -> Tensor:
    """Return a copy of a target (N, *) in which the labels of ``rows`` (N,) bool are missing.

    An integer or bool target whose dtype cannot hold ``missing`` becomes int64.
    """
    mask = rows.reshape(-1, *(1,) * (target.dim() - 1))
    if target.is_floating_point():
        return target.masked_fill(mask, torch.nan)
    if target.dtype == torch.bool or not torch.iinfo(target.dtype).min <= missing <= torch.iinfo(target.dtype).max:
        target = target.long()
    return target.masked_fill(mask, missing)


def only_tasks(batch: dict[str, Any], tasks: Mapping[str, int]) -> dict[str, Any]:
    """Leave out the targets, and the weights, of all but ``tasks``."""
    per_task = [key for key in ("targets", "weights") if isinstance(batch.get(key), Mapping)]
    return batch | {key: {name: value for name, value in batch[key].items() if name in tasks} for key in per_task}


def _blanked(batch: dict[str, Any], rows: Sequence[int], missing: Mapping[str, int]) -> dict[str, Any]:
    absent = torch.tensor(rows) == PADDING
    targets = {
        name: without_labels(target, absent, missing.get(name, MISSING))
        for name, target in batch.get("targets", {}).items()
    }
    return batch | ({"targets": targets} if "targets" in batch else {})
