"""What a predictor gives: answers by task as columns, as rows for JSON, or as a table of Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.predictor.decode import Answer
from mtl_lightning.predictor.report import Report

__all__ = ["Predictions", "array_of"]


@dataclass(frozen=True)
class Predictions:
    """Answers for N rows.

    Attributes:
        tasks: of each task the columns of its answer (N, *), NumPy arrays by what they are: ``label`` and
            ``probability``, ``value`` with perhaps ``low`` and ``high``, ``value`` with other fields; as of
            :func:`~mtl_lightning.predictor.decode.answer`.
        report: what of the rows is unlike training.
        decodings: of each task what its answer means: names of classes, units.
    """

    tasks: Mapping[str, Answer]
    report: Report
    decodings: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def __len__(self) -> int:
        return next((len(column) for answer in self.tasks.values() for column in answer.values()), 0)

    def __getitem__(self, task: str) -> Answer:
        return self.tasks[task]

    def to_list(self) -> list[dict[str, dict[str, Any]]]:
        """Return a dict for each row, ``{task: answer}``, of plain data, as for JSON.

        Classes are ``{"label": name, "probabilities": {name: probability}}``; several labels ``{"labels": [names that
        hold], "probabilities": {...}}``; numbers ``{"value": number, "low": ..., "high": ...}``, several of them as
        dicts by their names, and so are the numbers of each field of a task that has fields.
        """
        parts = {task: _as_rows(answer, self.decodings[task]) for task, answer in self.tasks.items()}
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]

    def to_arrow(self) -> Any:
        """Return a ``pyarrow.Table``: ``<task>`` has the label or the value, ``<task>.<key>`` what else there is of it;
        rows of an array are lists.
        """
        columns: dict[str, Any] = {}
        for task, answer in self.tasks.items():
            main = next((key for key in ("label", "value") if key in answer), None)
            for key, column in answer.items():
                columns[task if key == main else f"{task}.{key}"] = array_of(column)
        return pa.table(columns)


def array_of(column: NDArray[Any]) -> Any:
    """Return a column (N, *) as an Arrow array; (N, D) becomes lists of the fixed size D, and so on."""
    if column.dtype == object:
        return pa.array(column.reshape(-1).tolist(), pa.string())
    found = pa.array(np.ascontiguousarray(column).reshape(-1))
    for size in column.shape[:0:-1]:
        found = pa.FixedSizeListArray.from_arrays(found, size)
    return found


def _as_rows(answer: Answer, decoding: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an answer as a dict for each row."""
    names: Sequence[str] = decoding.get("names", [])
    form = decoding["form"] if {"label", "value"} & {*answer} else "arrays"
    lists = {key: column.tolist() for key, column in answer.items()}
    if form == "binary":
        no, yes = names
        return [
            {"label": label, "probabilities": {no: 1 - p, yes: p}}
            for label, p in zip(lists["label"], lists["probability"], strict=True)
        ]
    if form == "classes":
        return [
            {"label": label, "probabilities": dict(zip(names, p, strict=True))}
            for label, p in zip(lists["label"], lists["probability"], strict=True)
        ]
    if form == "labels":
        return [
            {
                "labels": [name for name, holds in zip(names, held, strict=True) if holds],
                "probabilities": dict(zip(names, p, strict=True)),
            }
            for held, p in zip(lists["label"], lists["probability"], strict=True)
        ]
    if form == "fields":
        called: Mapping[str, Sequence[str]] = decoding["fields"]
        lists = {
            key: [dict(zip(called[key], row, strict=True)) for row in rows] if called.get(key) else rows
            for key, rows in lists.items()
        }
    if form == "values" and names:
        lists = {key: [dict(zip(names, row, strict=True)) for row in rows] for key, rows in lists.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
