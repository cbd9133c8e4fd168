"""Which rows of a streamed table come when, and on which process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mtl_lightning.data.loader import EpochSampler
from mtl_lightning.data.seeding import generator_of, mixed_seed
from mtl_lightning.data.streaming.rows import Block, StreamedRows, Stride


class StreamOrder(EpochSampler):
    """The blocks of one rank and epoch, in an order that is a function of (seed, epoch).

    Padded, all ranks have ceil(N / W) rows: rank r the rows from r N / W to (r + 1) N / W of the epoch's sequence, and
    perhaps a last one without labels. A row group at a border is read by both ranks. Not padded (predict), rank r has
    the rows r, r + W, ... of the table; each rank then reads all of it.

    Args:
        rows: the split.
        batch_size: rows of a batch of one process.
        options: ``shuffle``, ``seed``, ``pad``, ``num_replicas`` and ``rank``, as of
            :class:`~mtl_lightning.data.loader.EpochSampler`.
    """

    def __init__(self, rows: StreamedRows, batch_size: int, **options: Any) -> None:
        super().__init__(rows, **options)
        self.rows = rows
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks()[0])

    def blocks(self) -> tuple[list[Block], int]:
        """Return the blocks from the one with row :attr:`start` on, and how many rows of that one come before."""
        skipped = self.start
        blocks = self._whole()
        while blocks and skipped >= blocks[0].rows:
            skipped -= blocks.pop(0).rows
        return blocks, skipped

    def _whole(self) -> list[Block]:
        blocks: list[Block] = []
        waiting: list[Stride] = []
        rows = 0
        for stride in self._strides():
            if waiting and rows + stride.rows > self.rows.source.buffer_rows:
                blocks.append(self._block(waiting))
                waiting, rows = [], 0
            waiting.append(stride)
            rows += stride.rows
        if waiting:
            blocks.append(self._block(waiting))
        short = len(self) - sum(block.rows for block in blocks)
        filler = Stride(next((index for group in self.rows.row_groups for index in group), 0), 0, 1, 1)
        return blocks + [Block((filler,), labelled=False)] * short

    def _block(self, strides: Sequence[Stride]) -> Block:
        seed = mixed_seed(self.seed, self.epoch, strides[0].place, strides[0].start) if self.shuffle else None
        return Block(tuple(strides), seed)

    def _strides(self) -> Iterator[Stride]:
        """Yield what this rank reads of each slice."""
        rank, world = self.place()
        total, before = len(self.rows), 0
        first, end = rank * total // world, (rank + 1) * total // world
        for index in self._sequence():
            count = self.rows.counts[index]
            if self.pad:
                stride = Stride(index, max(first - before, 0), min(end - before, count), 1)
            else:
                stride = Stride(index, (rank - before) % world, count, world)
            if stride.rows:
                yield stride
            before += count

    def _sequence(self) -> Iterator[int]:
        """Yield the slices of the epoch; those of one row group one after the other."""
        groups = self.rows.row_groups
        order = (
            torch.randperm(len(groups), generator=generator_of(self.seed, self.epoch)).tolist()
            if self.shuffle
            else range(len(groups))
        )
        return (index for group in order for index in groups[group])
