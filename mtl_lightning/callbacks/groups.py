"""Which rows have an interval of their own: those with the same value of a column of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from mtl_lightning.core import MultiTaskModule
from mtl_lightning.names import did_you_mean
from mtl_lightning.types import ConfigurationError, TableSpec


class Groups:
    """The values of a column of a table, or of an entry of the inputs.

    Args:
        column: its name.
        place: which column of ``inputs["categorical"]`` it is; None for an entry of the inputs.
        values: of codes 1, 2, ... of a table's column; None for what is its own value.
    """

    def __init__(self, column: str, place: int | None = None, values: Sequence[Any] | None = None) -> None:
        self.column, self._place, self._values = column, place, values

    @classmethod
    def of(cls, module: MultiTaskModule, column: str) -> Self:
        """Return the groups of a module's data.

        Raises:
            ConfigurationError: if its table has no such column of categories.
        """
        spec = module.input_spec
        if not isinstance(spec, TableSpec):
            return cls(column)
        schema = getattr(getattr(module.trainer, "datamodule", None), "schema", None) or module.trained_on or {}
        known = [name for name in spec.categorical if name in schema.get("categorical", spec.categorical)]
        if column not in known:
            raise ConfigurationError(
                f"Calibration: `by`: expected a column of categories, one of {known[:20]}, found {column!r}."
                f"{did_you_mean(column, known)}"
            )
        return cls(column, list(spec.categorical).index(column), schema.get("categorical", {}).get(column))

    def codes(self, inputs: Any) -> Tensor:
        """Return the code (B,) of each row.

        Raises:
            ConfigurationError: for inputs without one integer a row under the column's name.
        """
        found = inputs.get("categorical" if self._place is not None else self.column) if _by_name(inputs) else None
        if self._place is not None and isinstance(found, Tensor):
            return found[:, self._place]
        if not isinstance(found, Tensor) or found.is_floating_point() or found[:1].numel() != 1:
            raise ConfigurationError(
                f"Calibration: `by`: expected inputs with one integer a row under {self.column!r}, found "
                f"{sorted(map(str, inputs)) if _by_name(inputs) else type(inputs).__name__}."
            )
        return found.reshape(-1)

    def name_of(self, code: int) -> str | None:
        """Return the value that a code stands for, as text; None for a missing one and one that training never saw."""
        if self._place is None:
            return str(code)
        if code < 1 or (self._values is not None and code > len(self._values)):
            return None
        return str(code if self._values is None else self._values[code - 1])

    def widths(self, codes: Tensor, known: Mapping[str, Any]) -> Tensor:
        """Return the half-widths (B, K) of rows with these codes (B,), of an interval's calibration."""
        rest = torch.tensor(known["half_width"], dtype=torch.float64)
        table, place = codes.cpu().unique(return_inverse=True)  # type: ignore[no-untyped-call]  # torch leaves it so
        names = [self.name_of(code) for code in table.tolist()]
        found = [known["groups"].get(name, known["half_width"]) for name in names]
        return torch.tensor(found, dtype=torch.float64).reshape(-1, len(rest))[place]


def _by_name(inputs: Any) -> bool:
    return isinstance(inputs, Mapping)
