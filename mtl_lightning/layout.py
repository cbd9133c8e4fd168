"""Which tensors a table's rows become, by its spec as plain data, and NumPy's dtypes of these; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["dtype_of", "tensors_of_table"]


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of NumPy that an input is cast to, by its name in an input spec."""
    known = name == "bool" or hasattr(np, name)  # `np.bool` is not in NumPy 1.26
    return np.dtype(name if known else "float32")  # such as bfloat16, which the network makes of float32


def tensors_of_table(table: Mapping[str, Any]) -> dict[str, tuple[list[int], str]]:
    """Return the shape, without the batch axis, and the dtype of each tensor of a table's inputs.

    ``numeric`` (Dn,) float32 and ``categorical`` (Dc,) int64; and, where the table has columns of lists, ``lists``
    (L,) int64, the codes of all of them side by side.

    Args:
        table: as of :class:`~mtl_lightning.types.TableSpec`, by field.
    """
    tensors: dict[str, tuple[list[int], str]] = {
        "numeric": ([len(table["numeric"])], "float32"),
        "categorical": ([len(table["categorical"])], "int64"),
    }
    if lists := table.get("lists"):
        tensors["lists"] = ([sum(length for _, length in lists.values())], "int64")
    return tensors
