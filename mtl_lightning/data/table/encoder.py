"""Applies a table's schema: record batches to batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtl_lightning.data.table import labels
from mtl_lightning.data.table.conditions import Conditions, part_of
from mtl_lightning.encoding.cells import CellError, one
from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.encoder import RowEncoder, column_of
from mtl_lightning.tasks.rows import MISSING, needs_float64
from mtl_lightning.types import Batch


class TableEncoder(RowEncoder):
    """Turns rows of a table into a batch of tensors, by a schema that :class:`TableFitter` has fitted; it can be
    pickled.

    Features are encoded as of :class:`~mtl_lightning.encoding.RowEncoder`: numbers standardised, categories as codes.

    Args:
        schema: as of :meth:`TableFitter.finish`.
        missing: the tasks to encode, and the missing label in the integer target of each; by default all, with -100.
        ids: columns to carry along as they stand there.
    """

    def __init__(
        self, schema: Mapping[str, Any], missing: Mapping[str, int] | None = None, ids: Sequence[str] = ()
    ) -> None:
        super().__init__(schema)
        self.ids = list(ids)
        self.missing = dict.fromkeys(schema["targets"], MISSING) if missing is None else dict(missing)
        self.targets = {task: known for task, known in schema["targets"].items() if task in self.missing}
        weights = schema["weights"]
        if isinstance(weights, Mapping):
            weights = {task: column for task, column in weights.items() if task in self.missing}
        self._weights: str | dict[str, str] | None = weights
        every = schema["targets"]
        questions = {task: known for task, known in every.items() if known["kind"] in labels.YES_OR_NO}
        self._conditions = Conditions(
            {task: known["only_where"] for task, known in every.items() if "only_where" in known},
            {task: known["column"] for task, known in every.items()},
            {task: partial(self._answer, known) for task, known in questions.items()},
            self._texts,
        )

    def _answer(self, known: Mapping[str, Any], batch: Any) -> NDArray[np.int64]:
        return labels.answer(known, self._cells(batch))

    def needed(self, *, targets: bool) -> dict[str, Literal["number", "text"]]:
        """Return the columns that :meth:`encode` looks at, and as what they are best read from a text file."""
        if not targets:
            return self.features() | dict.fromkeys(self.ids, "text")
        kinds = self._as_numbers()
        looked_at = [known for task in self.targets for known in self._looked_at(task)]
        for known in looked_at:
            kinds[known["column"]] = "number" if known["kind"] in labels.AS_NUMBERS else "text"
            kinds |= {known[part]: "number" for part in ("exposure", "minus") if known.get(part) is not None}
        kinds |= dict.fromkeys(self._weight_columns(), "number")
        # A column that is read in two ways is read as text.
        kinds |= dict.fromkeys((k["column"] for k in looked_at if k["kind"] not in labels.AS_NUMBERS), "text")
        kinds |= dict.fromkeys((k["event"] for k in looked_at if k["kind"] == "survival"), "text")
        return self._as_text(kinds) | dict.fromkeys(self.ids, "text")

    def _looked_at(self, task: str) -> Iterator[dict[str, Any]]:
        """Yield what is known of a task, and of the tasks and columns that say where its labels count."""
        known = self.schema["targets"].get(task, {"column": task, "kind": "condition"})
        yield known
        for name in known.get("only_where", {}):
            yield from self._looked_at(name)
            if name in self.schema["targets"] and self.schema["targets"][name]["kind"] not in labels.YES_OR_NO:
                yield {"column": self.schema["targets"][name]["column"], "kind": "condition"}  # its text is

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
            ``inputs`` of ``numeric`` (N, Dn) float32 and ``categorical`` (N, Dc) int64, and perhaps ``lists`` (N, L)
            int64; with ``targets``, a tensor (N,)
            for each task, float32 for numbers, float64 where float32 would round them visibly, and int64 for classes;
            (N, 2) float32 for counts with their exposure and times with their event; and perhaps ``weights``, float32.

        Raises:
            DataError: for a column that is not there.
            CellError: for a cell that cannot be read, and for a class that training did not have; it knows its row.
        """
        inputs = self.inputs(batch, drift, counted)
        encoded: Batch = {"inputs": {name: torch.from_numpy(array) for name, array in inputs.items()}}
        if self.ids:
            encoded["ids"] = {name: self._as_it_stands(batch, name) for name in self.ids}
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

    def _as_it_stands(self, batch: Any, name: str) -> NDArray[np.object_]:
        """Return a column as texts (N,), empty where there is none; equal ones are one object."""
        encoded = one(column_of(batch, name))
        encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.cast(pa.string()).dictionary_encode()
        texts = ["" if text is None else text for text in encoded.dictionary.cast(pa.string()).to_pylist()]
        values = np.array([*texts, ""], dtype=object)
        found: NDArray[np.object_] = values[encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)]
        return found

    def _count_missing(self, targets: Mapping[str, Tensor], drift: DriftCounts, counted: Any) -> None:
        """Count the missing cells of the targets' columns, each of which may be that of several tasks."""
        always = {task: known for task, known in self.targets.items() if shows_gaps(known)}
        for column, task in {known["column"]: task for task, known in always.items()}.items():
            target = targets[task].numpy()
            missing = np.isnan(target) if target.dtype.kind == "f" else target == self.missing[task]
            drift.labels(column, missing[counted])

    def _target(self, batch: Any, task: str) -> Tensor:
        """Encode a target (N,), or (N, 2) with an exposure or an event."""
        rows = self._conditions.rows(task, batch)
        if rows is None:
            return torch.from_numpy(self._labels(batch, task))
        try:
            parts = (self.targets[task].get(part) for part in ("column", "exposure", "minus", "event"))
            found = self._labels(part_of(batch, [part for part in parts if part is not None], rows), task)
        except CellError as error:
            raise CellError(str(error), None if error.row is None else int(rows[error.row])) from error
        empty = np.nan if found.dtype.kind == "f" else self.missing[task]
        whole = np.full((batch.num_rows, *found.shape[1:]), empty, dtype=found.dtype)
        whole[rows] = found
        return torch.from_numpy(whole)

    def _labels(self, batch: Any, task: str) -> NDArray[Any]:
        """Encode the labels of rows in which they count."""
        known, cells = self.targets[task], self._cells(batch)
        kind = known["kind"]
        if kind == "number":
            wide = needs_float64(known["mean"], known["std"])
            return labels.number(known, cells).astype(np.float64 if wide else np.float32)
        if kind in ("count", "survival"):
            return (labels.count if kind == "count" else labels.survival)(known, cells).astype(np.float32)
        codes = (labels.answer if kind in labels.YES_OR_NO else labels.classes)(known, cells)
        return np.where(codes < 0, self.missing[task], codes)

    def _cells(self, batch: Any) -> labels.Cells:
        return labels.Cells(batch, self._numbers, self._texts)

    def _weight(self, batch: Any, name: str) -> Tensor:
        found = self._numbers(batch, name)
        wrong = ~(found >= 0)
        if wrong.any():
            where = int(wrong.argmax())
            raise CellError(f"column {name!r}: expected a weight of at least 0, found {found[where]}", where)
        return torch.from_numpy(found.astype(np.float32))


def shows_gaps(known: Mapping[str, Any]) -> bool:
    """Whether a label is missing where its column's cell is, and only there."""
    alone = all(known.get(part) is None for part in ("exposure", "minus", "event"))
    return alone and known["kind"] != "is_missing" and not known.get("only_where")
