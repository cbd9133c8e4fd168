"""Applies a table's schema: record batches to batches of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.encoder import RowEncoder
from mtl_lightning.tasks.rows import MISSING, needs_float64
from mtl_lightning.types import Batch


class TableEncoder(RowEncoder):
    """Turns rows of a table into a batch of tensors, by a schema that :class:`TableFitter` has fitted; it can be
    pickled.

    Features are encoded as of :class:`~mtl_lightning.encoding.RowEncoder`: numbers standardised, categories as codes.

    Args:
        schema: as of :meth:`TableFitter.finish`.
        missing: the tasks to encode, and the missing label in the integer target of each; by default all, with -100.
    """

    def __init__(self, schema: Mapping[str, Any], missing: Mapping[str, int] | None = None) -> None:
        super().__init__(schema)
        self.missing = dict.fromkeys(schema["targets"], MISSING) if missing is None else dict(missing)
        self.targets = {task: known for task, known in schema["targets"].items() if task in self.missing}
        weights = schema["weights"]
        if isinstance(weights, Mapping):
            weights = {task: column for task, column in weights.items() if task in self.missing}
        self._weights: str | dict[str, str] | None = weights

    def needed(self, *, targets: bool) -> dict[str, Literal["number", "text"]]:
        """Return the columns that :meth:`encode` looks at, and as what they are best read from a text file."""
        if not targets:
            return self.features()
        kinds: dict[str, Literal["number", "text"]] = dict.fromkeys(self.schema["numeric"], "number")
        for known in self.targets.values():
            kinds[known["column"]] = "number" if known["kind"] in ("number", "at_least") else "text"
        kinds |= dict.fromkeys(self._weight_columns(), "number")
        # A column that is read in two ways is read as text.
        kinds |= dict.fromkeys((k["column"] for k in self.targets.values() if k["kind"] in _TEXT), "text")
        return self._as_text(kinds)

    def _weight_columns(self) -> list[str]:
        if self._weights is None:
            return []
        return [self._weights] if isinstance(self._weights, str) else list(self._weights.values())

    def encode(
        self, batch: Any, *, targets: bool = True, drift: DriftCounts | None = None, counted: Any = slice(None)
    ) -> Batch:
        """Encode rows.

        Args:
            batch: an Arrow record batch or table (N rows) with at least the columns that are :meth:`needed`.
            targets: encode targets and weights too; without it their columns need not be there.
            drift: counts what training never saw.
            counted: those of the rows (N,) that it looks at, by default all.

        Returns:
            ``inputs`` of ``numeric`` (N, Dn) float32 and ``categorical`` (N, Dc) int64; with ``targets``, a tensor (N,)
            for each task, float32 for numbers, float64 where float32 would round them visibly, and int64 for classes;
            and perhaps ``weights``, float32.

        Raises:
            DataError: for a column that is not there.
            CellError: for a cell that cannot be read, and for a class that training did not have; it knows its row.
        """
        inputs = self.inputs(batch, drift, counted)
        encoded: Batch = {"inputs": {name: torch.from_numpy(array) for name, array in inputs.items()}}
        if targets:
            encoded["targets"] = {task: self._target(batch, task) for task in self.targets}
            if drift is not None:
                self._count_missing(encoded["targets"], drift, counted)
            if self._weights is not None:
                encoded["weights"] = (
                    self._weight(batch, self._weights)
                    if isinstance(self._weights, str)
                    else {task: self._weight(batch, name) for task, name in self._weights.items()}
                )
        return encoded

    def _count_missing(self, targets: Mapping[str, Tensor], drift: DriftCounts, counted: Any) -> None:
        """Count the missing cells of the targets' columns, each of which may be that of several tasks."""
        for column, task in {known["column"]: task for task, known in self.targets.items()}.items():
            target = targets[task].numpy()
            missing = np.isnan(target) if target.dtype.kind == "f" else target == self.missing[task]
            drift.labels(column, missing[counted])

    def _target(self, batch: Any, task: str) -> Tensor:
        """Encode a target (N,)."""
        known, missing = self.targets[task], self.missing[task]
        column, kind = known["column"], known["kind"]
        if kind == "number":
            wide = needs_float64(known["mean"], known["std"])
            return torch.from_numpy(self._numbers(batch, column).astype(np.float64 if wide else np.float32))
        if kind == "at_least":
            found = self._numbers(batch, column)
            return torch.from_numpy(np.where(np.isnan(found), missing, found >= known["threshold"]).astype(np.int64))
        indices, values = self._texts(batch, column)
        if kind == "positive":
            codes = [int(value in known["values"]) for value in values]
        else:
            classes = {value: index for index, value in enumerate(known["values"])}
            codes = [classes.get(value, -1) for value in values]
            if -1 in codes:
                where = int((indices == codes.index(-1)).argmax())
                raise CellError(
                    f"column {column!r}: expected a class that the training split has, {known['values']}, found "
                    f"{values[indices[where]]!r}. Correct it, or name it in `missing_values`",
                    where,
                )
        return torch.from_numpy(np.array([*codes, missing], dtype=np.int64)[indices])

    def _weight(self, batch: Any, name: str) -> Tensor:
        found = self._numbers(batch, name)
        wrong = ~(found >= 0)
        if wrong.any():
            where = int(wrong.argmax())
            raise CellError(f"column {name!r}: expected a weight of at least 0, found {found[where]}", where)
        return torch.from_numpy(found.astype(np.float32))


_TEXT = ("classes", "positive")
