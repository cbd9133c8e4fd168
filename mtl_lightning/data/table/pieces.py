"""Rows of a file that are wanted, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.reader import Piece
from mtl_lightning.types import DataError


class Selected(NamedTuple):
    """Rows of a piece of a file, and the split (M,) of each of them."""

    piece: Piece
    rows: NDArray[np.int64]
    splits: NDArray[np.int8]

    def batch(self) -> Any:
        """Return the rows as a record batch."""
        batch = self.piece.rows
        return batch if len(self.rows) == batch.num_rows else batch.take(pa.array(self.rows))

    def locate(self, row: int) -> str:
        """Say where a row of the batch is: the file and its row, counted from 1."""
        return f"{self.piece.file}, row {self.piece.start + 1 + int(self.rows[row])}"

    @contextmanager
    def located(self) -> Iterator[None]:
        """Add file and row to an error about a cell of the batch."""
        try:
            yield
        except CellError as error:
            row = None if error.row is None else int(self.rows[error.row])
            raise CellError(str(error), row).at(self.piece.file, self.piece.start + 1) from error


def select(pieces: Iterable[Piece], wanted: Sequence[int], assigned: NDArray[np.int8] | None) -> Iterator[Selected]:
    """Pick the rows of the wanted splits.

    Args:
        pieces: of a table, in order.
        wanted: numbers of splits.
        assigned: the split of each row (N,) of the table; None if all rows are in the one that is wanted.
    """
    first = 0
    for piece in pieces:
        last = first + piece.rows.num_rows
        of_piece = np.full(last - first, wanted[0], dtype=np.int8) if assigned is None else assigned[first:last]
        rows = np.flatnonzero(np.isin(of_piece, wanted))
        first = last
        if len(rows):
            yield Selected(piece, rows, of_piece[rows])


def placed(error: CellError, pieces: Sequence[Piece]) -> DataError:
    """Add file and row to an error about a cell of all pieces one below the other."""
    row = error.row or 0
    for piece in pieces:
        if row < piece.rows.num_rows:
            return CellError(str(error), None if error.row is None else row).at(piece.file, piece.start + 1)
        row -= piece.rows.num_rows
    return error
