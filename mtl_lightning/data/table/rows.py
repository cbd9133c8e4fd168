"""The rows of a table in memory, as small as they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mtl_lightning.data.ids import joined, taken, without_ids
from mtl_lightning.data.rows import TensorRows
from mtl_lightning.nested import leaves
from mtl_lightning.types import Batch


class TableRows(TensorRows):
    """Rows whose codes of categories are held in the smallest integers that can, and given as int64.

    Args:
        inputs: ``numeric`` (N, Dn) and ``categorical`` (N, Dc), perhaps ``lists`` (N, L).
        targets: as of :class:`~mtl_lightning.data.rows.TensorRows`; None for rows without, whose batches then have
            none.
        weights: as of :class:`~mtl_lightning.data.rows.TensorRows`.
        ids: likewise.
    """

    def __init__(
        self,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor] | None,
        weights: Tensor | dict[str, Tensor] | None = None,
        ids: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(inputs, targets or {}, weights, ids)
        if targets is None:
            del self._columns["targets"]

    def target(self, task: str) -> Tensor:
        """Return a target of all rows (N,)."""
        return cast("Tensor", self._columns["targets"][task])

    def __getitem__(self, row: int) -> Batch:
        return _widened(super().__getitem__(row))

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        return _widened(super().__getitems__(rows))


class RowsBuilder:
    """Collects encoded batches until all rows are there.

    Args:
        codes: the largest number of codes of a column, for the categorical ones, or by block of the inputs.
    """

    def __init__(self, codes: int | Mapping[str, int]) -> None:
        self.rows = 0
        most = {"categorical": codes} if isinstance(codes, int) else codes
        self._dtypes = {("inputs", block): _smallest(number) for block, number in most.items()}
        self._ids: list[dict[str, Any]] = []
        self._parts: dict[tuple[str, ...], list[Tensor]] = {}

    def add(self, batch: Batch, rows: Tensor | None = None) -> None:
        """Add a batch, or some of its rows (M,) int64."""
        rest, ids = without_ids(batch)
        if ids:
            self._ids.append(ids["ids"] if rows is None else taken(ids["ids"], rows))
        for path, tensor in leaves(rest):
            part = tensor if rows is None else tensor.index_select(0, rows)
            part = part.to(self._dtypes[path]) if path in self._dtypes else part
            self._parts.setdefault(path, []).append(part)
        first = next(iter(self._parts.values()))
        self.rows += len(first[-1])

    def build(self) -> TableRows:
        """Return all rows; the parts are given up one by one, so that memory does not double."""
        whole: dict[str, Any] = {}
        for *above, last in list(self._parts):
            path = (*above, last)
            place = whole
            for key in above:
                place = place.setdefault(key, {})
            place[last] = torch.cat(self._parts.pop(path))
        ids = joined(self._ids) if self._ids else None
        return TableRows(whole["inputs"], whole.get("targets"), whole.get("weights"), ids)


def _smallest(codes: int) -> torch.dtype:
    return next(dtype for dtype in (torch.uint8, torch.int16, torch.int32) if codes - 1 <= torch.iinfo(dtype).max)


def _widened(batch: Batch) -> Batch:
    for block in batch["inputs"].keys() & _CODES:
        batch["inputs"][block] = batch["inputs"][block].long()
    return batch


_CODES = {"categorical", "lists"}
