"""Which tensors a table's rows become, by its spec as plain data; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["tensors_of_table"]


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
