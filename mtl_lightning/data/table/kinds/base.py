"""Fits a feature that is neither a plain number nor a plain category, on the training rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, Literal

from mtl_lightning.data.table.readings import Locate

__all__ = ["KindFitter"]


class KindFitter(ABC):
    """Follows the training rows of a feature's columns, a piece of the table at a time.

    What it learns must not depend on how the rows are cut into pieces, nor on how their columns are stored.

    Args:
        feature: its name.
        column: the main source column.
        missing: what stands for a missing value, beside null, nan and the empty text.

    Attributes:
        kind: as of :class:`~mtl_lightning.encoding.kinds.ColumnKind`.
        reads: how its columns are best read from a text file.
        columns: the source columns, the main one first.
        rows: how many rows were seen.
        absent: of how many the main column is missing.
        shared: the name of the embedding table that it has in common with other columns; None for its own.
    """

    kind: ClassVar[str]
    reads: Literal["number", "text"] = "text"

    def __init__(self, feature: str, column: str, missing: Collection[str] = ()) -> None:
        self.feature = feature
        self.columns: tuple[str, ...] = (column,)
        self.missing = frozenset(missing)
        self.rows = self.absent = 0
        self.shared: str | None = None

    @abstractmethod
    def update(self, columns: tuple[Any, ...], locate: Locate) -> None:
        """Add the training rows of a piece of the columns (Arrow, N), and count ``rows`` and ``absent``.

        Args:
            columns: in the order of the attribute.
            locate: says where a row of the piece is.

        Raises:
            CellError: for a cell that cannot be read; it knows its row.
        """

    @abstractmethod
    def finish(self) -> dict[str, Any]:
        """Return what the schema is to know of the feature, beside ``kind`` and ``column``, as plain data.

        Raises:
            DataError: for a column of which nothing can be made.
        """

    def known(self) -> dict[str, Any]:
        """Return the feature's part of the schema."""
        shared = {} if self.shared is None else {"shared": self.shared}
        return {"kind": self.kind, "column": self.columns[0], **shared, **self.finish()}
