"""What rows hold that the training rows did not: counted by several processes, told after a test or a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import get_worker_info

from mtl_lightning.encoding.drift import COUNTS, DriftCounts, percent
from mtl_lightning.names import listed
from mtl_lightning.types import ConfigurationError, MtlLightningWarning

_MOST = 12  # columns that are listed


class Drift(DriftCounts):
    """Counts in memory that is shared with worker processes, each of which has its own place there.

    Args:
        schema: as of :class:`~mtl_lightning.encoding.DriftCounts`.
        workers: the largest number of processes that encode rows beside this one.
    """

    def __init__(self, schema: Mapping[str, Any], workers: int = 0) -> None:
        self._workers = workers
        super().__init__(schema)

    def _counters(self, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode(False):  # it is made during a prediction, and outlives that
            rows = torch.zeros(self._workers + 1, dtype=torch.int64)
            cells = torch.zeros(self._workers + 1, columns, COUNTS, dtype=torch.int64)
        for counts in (rows, cells) if self._workers else ():
            counts.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return rows, cells

    def _place(self) -> int:
        info = get_worker_info()
        return 0 if info is None else (1 + info.id) % len(self._rows)


class Drifts:
    """What was counted of the rows that are tested, and of those that are predicted.

    Args:
        share: of a column's rows, above which there is a warning; None counts nothing.
        owner: whose rows they are.
        workers: as of :class:`Drift`.
        streamed: whether rows are encoded anew in each pass, and by several processes in parts.

    Raises:
        ConfigurationError: for a share that is none.
    """

    def __init__(self, share: float | None, owner: str, workers: int, *, streamed: bool) -> None:
        if share is not None and not 0 <= share <= 1:
            raise ConfigurationError(f"`unseen_share`: expected a share from 0 to 1, or null, found {share}.")
        self._share, self._owner, self._workers, self._streamed = share, owner, workers, streamed
        self._all: dict[str, Drift] = {}

    def of(self, name: str, schema: Mapping[str, Any]) -> Drift | None:
        """Return what counts the rows of this name; None if nothing is to be counted."""
        return None if self._share is None else self._all.setdefault(name, Drift(schema, self._workers))

    def report(self, name: str) -> dict[str, Any] | None:
        """Return what was counted of the rows of this name, as plain data; None if nothing was."""
        drift = self._all.get(name)
        if drift is None or not drift.rows:
            return None
        strange = [one._asdict() for one in drift.found()]
        return {"rows": drift.rows, "columns": strange}

    def tell(self, name: str) -> None:
        """Print what was counted of the rows of this name; warn of columns with too much of it."""
        if name not in self._all or not self._all[name].rows or self._share is None:
            return
        drift, share = self._all[name], self._share
        several = self._streamed and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        rows = f"{self._owner}: {drift.rows} rows" + (" that the first process read" if several else "")
        strange = drift.found()
        if self._streamed:
            drift.reset()
        if not strange:
            rank_zero_info(f"{rows}, with nothing in them that training never saw.")
            return
        lines = [f"  {one.column}: {one.words}" for one in strange[:_MOST]]
        lines += [f"  and {len(strange) - _MOST} more"] if len(strange) > _MOST else []
        rank_zero_info("\n".join([f"{rows}, of which training never saw the like in", *lines]))
        if above := list(dict.fromkeys(one.column for one in strange if one.share > share)):
            rank_zero_warn(
                f"{self._owner}: expected rows like those of training, found more than {percent(share)} unlike them "
                f"in the columns {listed(above, _MOST)}. What is predicted from them is a guess: look for another "
                "spelling, unit or source, or train on such rows (`unseen_share` sets the share).",
                category=MtlLightningWarning,
            )
