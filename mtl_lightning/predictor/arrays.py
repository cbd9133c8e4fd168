"""Inputs that are no tables: arrays and tensors, checked against the sizes that the network was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.errors import DataError
from mtl_lightning.layout import dtype_of, tensors_of_table

__all__ = ["Inputs", "as_inputs", "rows_of", "sliced"]

Inputs: TypeAlias = NDArray[Any] | dict[str, NDArray[Any]]
"""Inputs of a batch: an array (N, *), or several by name."""


def as_inputs(given: Any, spec: Mapping[str, Any] | None) -> Inputs:
    """Return inputs as arrays of the shapes and dtypes that a network takes.

    Args:
        given: an array or tensor (N, *), a dict of such, or a batch, whose targets are not looked at.
        spec: an input spec as plain data (:func:`~mtl_lightning.types.input_spec_to_dict`); None if it is not known.

    Raises:
        DataError: for other names, shapes, or a dtype that would lose something; and for different numbers of rows.
    """
    if isinstance(given, Mapping) and "inputs" in given:
        given = given["inputs"]
    if spec is None:
        inputs: Inputs = (
            {str(name): _array(value) for name, value in given.items()} if isinstance(given, Mapping) else _array(given)
        )
    elif "tensor" in spec:
        if isinstance(given, Mapping):
            raise DataError(f"Expected an array of rows {_shape(spec['tensor'])}, found a dict of {sorted(given)}.")
        inputs = _fitting(_array(given), spec["tensor"], "inputs")
    else:
        inputs = _by_name(given, _specs(spec))
    rows_of(inputs)
    return inputs


def _specs(spec: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    if "tensors" in spec:
        specs: Mapping[str, Mapping[str, Any]] = spec["tensors"]
        return specs
    tensors = tensors_of_table(spec["table"])  # of data that encodes its rows itself
    return {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in tensors.items()}


def _by_name(given: Any, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    if not isinstance(given, Mapping) or not {*specs} <= {*given}:
        found = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise DataError(f"Expected a dict of arrays {list(specs)}, found {found}.")
    return {name: _fitting(_array(given[name]), one, name) for name, one in specs.items()}


def _array(value: Any) -> NDArray[Any]:
    """Return an array of an array, a tensor on any device, or lists of numbers."""
    for step in ("detach", "cpu"):
        move: Callable[[], Any] | None = getattr(value, step, None)
        value = value if move is None else move()
    try:
        found = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"Expected an array or a tensor, found {type(value).__name__}: {error}.") from error
    if found.dtype == object or found.ndim == 0:
        raise DataError(f"Expected an array or a tensor with a row per input, found {type(value).__name__}.")
    return found


def _fitting(found: NDArray[Any], spec: Mapping[str, Any], name: str) -> NDArray[Any]:
    shape, dtype = spec["shape"], dtype_of(spec["dtype"])
    sizes = found.shape[1:]
    if len(sizes) != len(shape) or any(want not in (None, size) for want, size in zip(shape, sizes, strict=True)):
        raise DataError(f"`{name}`: expected the shape {_shape(spec)}, found {found.shape}.")
    if not (np.can_cast(found.dtype, dtype, "same_kind") or found.size == 0):
        raise DataError(f"`{name}`: expected numbers of type {dtype}, found {found.dtype}.")
    return found.astype(dtype, copy=False)


def _shape(spec: Mapping[str, Any]) -> str:
    return f"(N, {', '.join('*' if size is None else str(size) for size in spec['shape'])})"


def rows_of(inputs: Inputs) -> int:
    """Return N, the number of rows of inputs.

    Raises:
        DataError: for arrays that differ in it.
    """
    if not isinstance(inputs, dict):
        return len(inputs)
    rows = {name: len(array) for name, array in inputs.items()}
    if len({*rows.values()}) != 1:
        raise DataError(f"Expected arrays with the same number of rows, found {rows}.")
    return next(iter(rows.values()))


def sliced(inputs: Inputs, start: int, end: int) -> Inputs:
    """Return the rows from ``start`` to ``end``."""
    if isinstance(inputs, dict):
        return {name: array[start:end] for name, array in inputs.items()}
    return inputs[start:end]
