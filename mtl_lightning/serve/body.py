"""The body of a request: rows, checked against what the model was trained on before they are queued."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from mtl_lightning.encoding.drift import DriftCounts
from mtl_lightning.encoding.lenient import Faults, LenientEncoder
from mtl_lightning.encoding.notation import ISO
from mtl_lightning.errors import DataError
from mtl_lightning.layout import dtype_of
from mtl_lightning.names import did_you_mean
from mtl_lightning.predictor.report import report_of
from mtl_lightning.serve.inputs import Tensors, array_of, tensors_of

_MOST = 12
"""Mistakes that are told at once."""
_DAY, _USUAL = datetime(2026, 3, 31, tzinfo=timezone.utc), "%Y-%m-%d"  # of an example


class Expected:
    """What rows must look like: by a table's schema, else by the input spec.

    Args:
        description: of the predictor.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        schema = description["schema"]
        self.schema = schema
        self.encoder = None if schema is None else LenientEncoder(schema)
        self.columns = [] if self.encoder is None else [*self.encoder.features()]
        self.spec = tensors_of(description["input_spec"]) if schema is None else {}
        self.example = _example(self.encoder, self.spec)

    def mistakes(self, rows: list[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return what is wrong with some rows, each with its row and column, and what of them is unlike training."""
        if self.encoder is None:
            return self._arrays(rows), []
        wrong: list[dict[str, Any]] = []
        for row, found in enumerate(rows):
            if not isinstance(found, dict):
                wrong.append(_wrong(row, None, f"expected an object of columns, found {found!r:.60}"))
                continue
            for name in self.columns:
                if name not in found:
                    near = did_you_mean(name, found)
                    wrong.append(_wrong(row, name, f"expected this column, or null in it, found none.{near}"))
        if wrong:
            return wrong, []
        drift, faults = self.encoder.counts(), Faults()
        self.encoder.rows(rows, drift, faults)
        for name, cells in faults.shown.items():
            wrong += [_wrong(row, name, f"expected {self._kind(name)} or null, found {cell}") for row, cell in cells]
        return wrong, self._unlike(drift)

    def _kind(self, name: str) -> str:
        """Return what the cells of a column are, spelled as in training."""
        kinds = [] if self.encoder is None else self.encoder.kinds_of_column(name)
        if name not in self.schema["numeric"]:
            return kinds[0].expects() if kinds else "a text or a number"
        dates = self.schema.get("reads", {}).get(name, {}).get("dates")
        if dates is None:
            return "a number"
        form = "of ISO 8601" if dates == ISO else f"in the format {dates!r}"
        return f"a date {form} as in training, such as {_DAY.strftime(_USUAL if dates == ISO else dates)!r},"

    def _unlike(self, drift: DriftCounts) -> list[dict[str, Any]]:
        if not drift.any():
            return []
        told = (one for one in report_of(drift, Faults()).columns if one.kind in ("unseen", "outside"))
        return [{"column": one.column, "kind": one.kind, "cells": one.cells, "words": one.words} for one in told]

    def _arrays(self, rows: list[Any]) -> list[dict[str, Any]]:
        """Check the inputs of rows that are no table's."""
        wrong: list[dict[str, Any]] = []
        first: dict[str, tuple[int, ...]] = {}
        for row, found in enumerate(rows):
            if "" not in self.spec and (not isinstance(found, dict) or not {*self.spec} <= {*found}):
                wrong.append(_wrong(row, None, f"expected an object with {list(self.spec)}, found {found!r:.60}"))
                continue
            for name, (shape, dtype) in self.spec.items():
                try:
                    sizes = array_of(found[name] if name else found, shape, dtype).shape
                except DataError as error:
                    wrong.append(_wrong(row, name or None, str(error)))
                    continue
                if sizes != first.setdefault(name, sizes):
                    said = f"expected the sizes {first[name]} of the rows before it in one request, found {sizes}"
                    wrong.append(_wrong(row, name or None, said))
        return wrong


class Rows(BaseModel):
    """Rows to answer."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra=lambda schema: schema.update(examples=[{"rows": [Rows.example()]}])
    )
    expected: ClassVar[Expected | None] = None

    rows: list[Any] = Field(
        min_length=1,
        description="One object per row, with a value for each column (null where it is missing), as in the table that "
        "the model was trained on; further columns are not looked at. For other data the inputs of each row.",
    )
    _unlike: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.expected is None:
            return self
        wrong, self._unlike = self.expected.mistakes(self.rows)
        if wrong:
            more = f"; and {len(wrong) - _MOST} more" if len(wrong) > _MOST else ""
            said = "; ".join(str(one["message"]) for one in wrong[:_MOST])
            raise PydanticCustomError("rows", "{said}", {"said": f"{said}{more}", "mistakes": wrong[:_MOST]})
        return self

    @property
    def unlike(self) -> list[dict[str, Any]]:
        """What of the rows training never saw."""
        return self._unlike

    @classmethod
    def example(cls) -> Any:
        """Return a row that could be sent."""
        return {} if cls.expected is None else cls.expected.example


def _wrong(row: int, column: str | None, what: str) -> dict[str, Any]:
    place = f"row {row + 1}" if column is None else f"row {row + 1}, column {column!r}"
    return {"row": row, "column": column, "message": f"{place}: {what}"}


def _example(encoder: LenientEncoder | None, spec: Tensors) -> Any:
    if encoder is None:
        sizes = {name: ([size or 1 for size in shape], dtype) for name, (shape, dtype) in spec.items()}
        arrays = {name: np.zeros(shape, dtype_of(dtype)).tolist() for name, (shape, dtype) in sizes.items()}
        return arrays.get("", arrays)
    schema = encoder.schema
    found = {name: round(known["mean"], 3) for name, known in schema["numeric"].items()}
    found |= {name: values[0] if values else None for name, values in schema["categorical"].items()}
    for name in encoder.features():
        if name not in found:
            examples = (kind.example() for kind in encoder.kinds_of_column(name) if kind.columns[0] == name)
            found[name] = next((one for one in examples if one is not None), None)
    return found
