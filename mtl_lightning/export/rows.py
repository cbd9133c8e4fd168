"""Rows to compare an export with its network on: real ones as arrays, or ones made up by the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtl_lightning.core.network.network import inputs_of
from mtl_lightning.errors import ExportError
from mtl_lightning.types import InputSpec, TableSpec, TensorSpec

NUMBER = 500
"""How many rows are compared, at most."""


def as_tensors(rows: Any) -> Any:
    """Return the inputs of a batch, or inputs, as a tensor or a dict of tensors on the CPU, of 500 rows at most.

    Raises:
        ExportError: for anything else, and for inputs without rows.
    """
    rows = inputs_of(rows)
    named = rows if isinstance(rows, Mapping) else {"": rows}
    parts = {str(name): _tensor(part) for name, part in named.items()}
    sizes = {name: None if part is None or not part.dim() else len(part) for name, part in parts.items()}
    if not parts or None in sizes.values() or len({*sizes.values()}) > 1 or 0 in sizes.values():
        raise ExportError(
            "`rows`: expected inputs as in a batch, a tensor (B, *) or a dict of such with at least one row, found "
            f"{type(rows).__name__}{f' with {sizes} rows' if isinstance(rows, Mapping) else ''}. Networks with other "
            "inputs cannot be exported."
        )
    made = {name: part[:NUMBER] for name, part in parts.items() if part is not None}
    return made if isinstance(rows, Mapping) else made[""]


def made_up(spec: InputSpec | None, seed: int = 0, number: int = NUMBER) -> Any:
    """Return random rows that a spec allows: in tables numbers around 0 with gaps, and all codes, unknown ones (0) too.

    Raises:
        ExportError: without a spec.
    """
    if spec is None:
        raise ExportError(
            "The network does not know the sizes of its inputs: expected `rows` to compare the export on, found none. "
            "Pass some inputs of a batch as `rows`, or an `input_spec` to the module."
        )
    random = np.random.default_rng(seed)
    if isinstance(spec, TableSpec):
        numeric = random.normal(scale=2.0, size=(number, len(spec.numeric))).astype(np.float32)
        numeric[random.random(numeric.shape) < 0.1] = np.nan
        codes = [random.integers(0, size, number) for size in spec.categorical.values()]
        categorical = np.stack(codes, 1) if codes else np.zeros((number, 0))
        made = {"numeric": numeric, "categorical": categorical.astype(np.int64)}
        if spec.lists:
            made["lists"] = np.concatenate(
                [random.integers(0, n, (number, long)) for n, long in spec.lists.values()], 1
            )
        return as_tensors(made)
    if isinstance(spec, TensorSpec):
        few = min(number, 32) if len(spec.shape) > 1 else number
        return _tensor(_values(random, (few, *(32 if size is None else size for size in spec.shape)), spec.dtype))
    few = min(number, *(32 if len(one.shape) > 1 else number for one in spec.values()))
    return {name: made_up(one, seed + place, few) for place, (name, one) in enumerate(spec.items())}


def of_dtype(rows: Any, dtype: torch.dtype) -> Any:
    """Return rows whose floating-point numbers have a network's dtype."""
    if isinstance(rows, Mapping):
        return {name: of_dtype(part, dtype) for name, part in rows.items()}
    return rows.to(dtype) if rows.is_floating_point() else rows


def as_arrays(rows: Any) -> dict[str, NDArray[Any]]:
    """Return rows by the names that exported inputs have."""
    parts = rows if isinstance(rows, Mapping) else {"inputs": rows}
    return {name: part.numpy() for name, part in parts.items()}


def cut(rows: Any, places: slice) -> Any:
    """Return some of the rows."""
    return {name: part[places] for name, part in rows.items()} if isinstance(rows, Mapping) else rows[places]


def count(rows: Any) -> int:
    """Return how many rows there are."""
    return len(next(iter(rows.values())) if isinstance(rows, Mapping) else rows)


def _values(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    if "float" in dtype:
        return random.normal(size=shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)  # codes that any embedding has


def _tensor(part: Any) -> Tensor | None:
    if isinstance(part, Tensor):
        return part.detach().cpu()
    return torch.as_tensor(part) if isinstance(part, np.ndarray) and part.dtype != object else None
