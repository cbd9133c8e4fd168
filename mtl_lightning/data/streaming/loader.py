"""Tables larger than memory: read block by block in an order that can be told, shared out and taken up again.

The order of an epoch is a function of (seed, epoch). Its row groups, shuffled, make one long sequence of rows, of which
rank r of W takes the r-th W-th. A rank reads its rows in *blocks*: as many consecutive row groups as fit into the
buffer, their rows in random order. Worker processes make whole blocks; batches are cut from the blocks where these
arrive, across their borders. So the batches do not depend on the number of workers, and the block that holds a given
batch is found by counting, without reading those before it.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch.utils.data import Sampler, get_worker_info

from mtl_lightning.data.ids import joined, sliced, without_ids
from mtl_lightning.data.loader import ResumableLoader, refuse_other
from mtl_lightning.data.rows import BatchRows, only_tasks, without_labels
from mtl_lightning.data.streaming.order import StreamOrder
from mtl_lightning.data.streaming.rows import StreamedRows
from mtl_lightning.nested import leaves, map_leaves
from mtl_lightning.tasks.rows import MISSING


class StreamLoader(ResumableLoader):
    """A :class:`~mtl_lightning.data.loader.ResumableLoader` of rows that are read block by block.

    Every row comes exactly once in an epoch; batches are the same for any number of workers. An epoch that was
    interrupted is continued by reading the block of its next batch. Departures: the ranks' k-th batches together are
    not the batch that one process would see, and an epoch is continued by as many processes as began it.

    Args:
        dataset: the split.
        batch_size: rows of a batch of one process.
        shuffle: a new random order each epoch.
        seed: of the order.
        missing: as in :class:`~mtl_lightning.data.rows.BatchRows`.
        pad: as in :class:`StreamOrder`.
        num_replicas: as in :class:`~mtl_lightning.data.loader.EpochSampler`.
        rank: as in :class:`~mtl_lightning.data.loader.EpochSampler`.
        sampler: for Lightning, which makes a loader anew for predict and ``overfit_batches``.
        drop_last: leave out the last batch where it would be short.
        options: further arguments of ``DataLoader``; its items are blocks, so ``prefetch_factor`` counts blocks.
    """

    def __init__(
        self,
        dataset: StreamedRows | BatchRows,
        *,
        batch_size: int | None = 1,
        shuffle: bool = False,
        seed: int = 0,
        missing: Mapping[str, int] | None = None,
        pad: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        sampler: Sampler[Any] | None = None,
        drop_last: bool = False,
        **options: Any,
    ) -> None:
        blocks = dataset if isinstance(dataset, BatchRows) else _Blocks(dataset, seed=seed, missing=missing)
        if not isinstance(sampler, StreamOrder):
            refuse_other(sampler)
            rows, place = cast("StreamedRows", blocks.dataset), {"num_replicas": num_replicas, "rank": rank}
            sampler = StreamOrder(rows, batch_size or 1, shuffle=shuffle, seed=seed, pad=pad, **place)
        self._pinned = options.pop("pin_memory", False)  # batches, not blocks
        if options.get("worker_init_fn") is None:
            options["worker_init_fn"] = _begin_worker
        super().__init__(blocks, batch_size=cast("int", None), sampler=sampler, **options)
        object.__setattr__(self, "drop_last", drop_last)  # torch knows of blocks only, of which none is left out

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        batches = len(self.order) / self._batch_rows
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    @property
    def order(self) -> StreamOrder:
        """What gives the blocks."""
        return cast("StreamOrder", self.sampler)

    @property
    def _batch_rows(self) -> int:
        return self.order.batch_size

    def _begin(self) -> Iterator[Any]:
        blocks = super()._begin()
        return self._cut(blocks, self.order.blocks()[1])

    def _cut(self, blocks: Iterator[Any], skipped: int) -> Iterator[Any]:
        """Yield batches of the blocks' rows, without the first ones. They are copies, so that no block is kept."""
        parts: list[Any] = []
        wanted = self._batch_rows
        for block in blocks:
            for start, end in _cuts(skipped, _rows_of(block), wanted, self._batch_rows):
                parts.append(_part(block, start, end))
                wanted -= end - start
                if not wanted:
                    yield self._joined(parts)
                    parts, wanted = [], self._batch_rows
            skipped = 0
        if parts and not self.drop_last:
            yield self._joined(parts)

    def _joined(self, parts: Sequence[Any]) -> Any:
        rest, ids = zip(*(without_ids(part) for part in parts), strict=True)
        batch = map_leaves(lambda *columns: torch.cat(columns), *rest) if len(parts) > 1 else rest[0]
        batch = map_leaves(lambda column: column.pin_memory(), batch) if self._pinned else batch
        return {**batch, **{key: joined([part[key] for part in ids]) for key in ids[0]}}

    def _identity(self) -> dict[str, int]:
        return super()._identity() | {
            "processes": self.order.place()[1],
            "buffer_rows": self.order.rows.source.buffer_rows,
            "row_groups": len(self.order.rows.row_groups),
        }


class _Blocks(BatchRows):
    """Blocks with the targets that are wanted, and labels where there are to be any."""

    def __getitem__(self, block: Any) -> Any:
        batch = dict(self.dataset[block])
        if self.missing is not None:
            batch = only_tasks(batch, self.missing)
        if not block.labelled:
            absent = torch.ones(block.rows, dtype=torch.bool)
            missing = self.missing or {}
            batch["targets"] = {
                name: without_labels(target, absent, missing.get(name, MISSING))
                for name, target in batch["targets"].items()
            }
        if get_worker_info() is not None:
            rest, ids = without_ids(batch)
            batch = map_leaves(lambda column: column.share_memory_(), rest) | ids  # now, not while it is sent
            _give_memory_back()
        return batch


def _cuts(start: int, end: int, first: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut the rows from ``start`` to ``end`` into one run of ``first`` rows at most and others of ``size`` at most."""
    while start < end:
        cut = min(start + first, end)
        yield start, cut
        start, first = cut, size


def _rows_of(block: Any) -> int:
    _, first = next(leaves(block["inputs"]))
    return len(first)


def _part(block: Any, start: int, end: int) -> Any:
    rest, ids = without_ids(block)
    part = map_leaves(lambda column: column[start:end].clone(), rest)
    return {**part, **{key: sliced(value, start, end) for key, value in ids.items()}}


def _begin_worker(_: int) -> None:
    """Keep the garbage collector off the objects that a worker was forked with: looking at them would copy them."""
    gc.freeze()


def _give_memory_back() -> None:
    """Return freed memory to the system; glibc would keep several hundred MB of gaps between what is in use."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None:
        trim(0)
