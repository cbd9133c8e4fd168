"""Batches in an order that can be told, counted, split over processes and taken up again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sized
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler, SequentialSampler
from typing_extensions import Self

from mtl_lightning.data.rows import PADDING, BatchRows
from mtl_lightning.data.seeding import generator_of, mixed_seed
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import ConfigurationError


class EpochSampler(DistributedSampler[int]):
    """Row indices in an order that is a function of (seed, epoch) alone; each process takes its share.

    Rank r of W takes ``order[r::W]``. Cut into batches of B rows, its k-th batch is then ``[r::W]`` of the batch that
    one process with W * B rows would see, so that the k-th batches of all ranks together are that batch. All ranks
    give ceil(N / W) indices: a short one ends with :data:`~mtl_lightning.data.rows.PADDING`.

    It is a ``DistributedSampler`` so that Lightning, which would otherwise put its own in place, leaves it alone.

    Args:
        dataset: anything with a length N.
        shuffle: a new random order each epoch, or always 0, 1, 2, ...
        seed: of the order; the same on every rank.
        pad: give a short rank as many indices as the others; without it (predict) no row is made up.
        num_replicas: W; by default what ``torch.distributed`` says whenever the order is asked for, else 1.
        rank: r; goes with ``num_replicas``.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        shuffle: bool = False,
        seed: int = 0,
        pad: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if (num_replicas is None) != (rank is None):
            raise ConfigurationError(
                f"Expected `num_replicas` and `rank` together, found num_replicas={num_replicas} and rank={rank}."
            )
        self._fixed_place = None if rank is None or num_replicas is None else (rank, num_replicas)
        place = self.place()
        super().__init__(cast("Dataset[Any]", dataset), place[1], place[0], shuffle=shuffle, seed=seed)
        self.pad = pad
        self.start = 0

    def place(self) -> tuple[int, int]:
        """Return (rank, number of processes)."""
        if self._fixed_place is not None:
            return self._fixed_place
        return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)

    def __iter__(self) -> Iterator[int]:
        self.rank, self.num_replicas = self.place()
        rows = len(cast("Sized", self.dataset))
        order = (
            torch.randperm(rows, generator=generator_of(self.seed, self.epoch)) if self.shuffle else torch.arange(rows)
        )
        mine = order[self.rank :: self.num_replicas]
        return iter(F.pad(mine, (0, len(self) - len(mine)), value=PADDING)[self.start :].tolist())

    def __len__(self) -> int:
        """Return the number of indices of a whole epoch, wherever in it ``start`` is."""
        rank, replicas = self.place()
        rows = len(cast("Sized", self.dataset))
        return math.ceil(rows / replicas) if self.pad else len(range(rank, rows, replicas))


class ResumableLoader(DataLoader[Any]):
    """A ``DataLoader`` that remembers how many batches it has handed out, and goes on from there after a resume.

    Lightning saves ``state_dict()`` in its checkpoints and gives it back before training goes on. An epoch that was
    interrupted continues with its next batch; one that was complete is followed by the next, from its start. What
    workers have read ahead does not count. ``len()`` is exact, and iterating never draws from the global random state.

    After a resume a batch has the rows, and the random numbers drawn for them (see
    :class:`~mtl_lightning.data.rows.BatchRows`), that it would have had without the interruption.

    Args:
        dataset: a map dataset of rows ``{"inputs": ..., "targets": {task: ...}}``.
        batch_size: rows of a batch of one process.
        shuffle: a new random order each epoch.
        seed: of the order and of the random numbers drawn by the dataset.
        missing: as in :class:`~mtl_lightning.data.rows.BatchRows`.
        pad: as in :class:`EpochSampler`.
        num_replicas: as in :class:`EpochSampler`.
        rank: as in :class:`EpochSampler`.
        sampler: for Lightning, which makes a loader anew for ``overfit_batches`` and gives it a sequential one.
        batch_sampler: for Lightning, which makes a loader anew for predict to note the rows of each batch.
        options: further arguments of ``DataLoader``: ``num_workers``, ``collate_fn``, ``pin_memory``, ...

    Raises:
        ConfigurationError: for an iterable dataset, for another sampler, and when an epoch is to be continued with
            other rows, seed, batch size or processes than it was begun with.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        missing: Mapping[str, int] | None = None,
        pad: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        sampler: Sampler[int] | None = None,
        batch_sampler: BatchSampler | None = None,
        **options: Any,
    ) -> None:
        collate, workers = options.pop("collate_fn", None), options.get("num_workers", 0)
        if isinstance(dataset, BatchRows):  # Lightning makes the loader anew from its attributes
            rows = dataset
        else:
            rows = BatchRows(dataset, seed=seed, missing=missing, collate=collate, shared=workers > 0)
        options.setdefault("generator", torch.Generator())
        if batch_sampler is not None:
            super().__init__(rows, batch_sampler=batch_sampler, collate_fn=_as_it_is, **_without_batching(options))
        else:
            if not isinstance(sampler, EpochSampler):
                refuse_other(sampler)
                sampler = EpochSampler(rows, shuffle=shuffle, seed=seed, pad=pad, num_replicas=num_replicas, rank=rank)
            super().__init__(rows, batch_size=batch_size, sampler=sampler, collate_fn=_as_it_is, **options)
        self._position = {"epoch": 0, "batches": 0}
        self._resumed: dict[str, Any] | None = None

    @property
    def order(self) -> EpochSampler:
        """The sampler that gives the order; Lightning may have wrapped the batch sampler around it."""
        return cast("EpochSampler", cast("BatchSampler", self.batch_sampler).sampler)

    @property
    def _batch_rows(self) -> int:
        return cast("BatchSampler", self.batch_sampler).batch_size

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises its private iterator class
        """Return an iterator that starts at its first ``next``, when the epoch has been told."""
        return _Pass(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the batches of it that were handed out, and what their order depends on."""
        return dict(self._resumed or self._position | self._identity())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved epoch, or begin the next if that one is complete, at the next iteration.

        Whoever sets another epoch before iterating, as Lightning does, gets that epoch from its start.
        """
        self._resumed = place_in_data(state_dict)
        self.order.set_epoch(state_dict["epoch"] + (state_dict["batches"] >= len(self)))

    def _begin(self) -> Iterator[Any]:
        """Start the epoch's batches, at the first or where the saved state says."""
        epoch, first = self.order.epoch, self._first()
        self._position, self._resumed = {"epoch": epoch, "batches": first}, None
        self.order.start = first * self._batch_rows
        cast("BatchRows", self.dataset).set_epoch(epoch)
        cast("torch.Generator", self.generator).manual_seed(mixed_seed(self.order.seed, epoch))
        return super().__iter__()

    def _first(self) -> int:
        """Return the index of the first batch to hand out."""
        saved = self._resumed
        if saved is None or saved["epoch"] != self.order.epoch or not 0 < saved["batches"] < len(self):
            return 0
        now = self._identity()
        if changed := {key: (saved.get(key), now[key]) for key in now if saved.get(key) != now[key]}:
            raise CheckpointError(
                f"Cannot continue epoch {saved['epoch']} after its first {saved['batches']} batches: expected the data "
                "as it was begun with, found "
                + ", ".join(f"{key} {new} instead of {old}" for key, (old, new) in changed.items())
                + ". Restore that, or resume from a checkpoint of an epoch's end."
            )
        return int(saved["batches"])

    def _identity(self) -> dict[str, int]:
        """What the order and its cut into batches depend on."""
        return {
            "rows": len(cast("Sized", self.dataset)),
            "seed": self.order.seed,
            "batch_size_of_all_processes": self._batch_rows * self.order.place()[1],
        }


class _Pass(Iterator[Any]):
    """One pass through a loader: begins late and counts what it hands out."""

    def __init__(self, loader: ResumableLoader) -> None:
        self._loader = loader
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = self._loader._begin()
        batch = next(self._batches)
        self._loader._position["batches"] += 1
        return batch


def place_in_data(state: Any) -> dict[str, Any]:
    """Return a loader's state, as a checkpoint has it.

    Raises:
        CheckpointError: for one without an epoch and the number of its batches that were read.
    """
    if isinstance(state, Mapping):
        counts = [state.get(name) for name in ("epoch", "batches")]
        plain = isinstance(state.get("loaders", {}), Mapping) and not any(isinstance(v, Tensor) for v in state.values())
        if plain and all(type(count) is int and count >= 0 for count in counts):
            return dict(state)
    raise CheckpointError(
        f"Expected of a loader the epoch, and how many batches of it were read, found {state!r:.150}. Take another "
        "checkpoint, or begin anew from its weights: load_from_checkpoint(path)."
    )


def _as_it_is(batch: Any) -> Any:
    """Collate nothing: the dataset has given a whole batch."""
    return batch


def _without_batching(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "drop_last"}


def refuse_other(sampler: Sampler[int] | None) -> None:
    """Accept no sampler but the one that Lightning puts in place for ``overfit_batches``."""
    if sampler is not None and not isinstance(sampler, SequentialSampler):
        raise ConfigurationError(
            f"Expected no sampler, or an EpochSampler, found {type(sampler).__name__}: the loader's order must be a "
            "function of (seed, epoch). Use `shuffle` and `seed`, or a DataLoader of torch."
        )
