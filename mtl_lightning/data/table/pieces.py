"""Rows of a file that are wanted, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtl_lightning.encoding.cells import CellError
from mtl_lightning.encoding.plain_arrays import of_rows
from mtl_lightning.encoding.reader import As, Piece
from mtl_lightning.types import DataError


class Selected(NamedTuple):
    """Rows of a piece of a file, and the split (M,) of each of them."""

    piece: Piece
    rows: NDArray[np.int64]
    splits: NDArray[np.int8]

    def batch(self) -> Any:
        """Return the rows as a record batch."""
        batch = self.piece.rows
        return batch if len(self.rows) == batch.num_rows else batch.take(of_rows(self.rows))

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


class ReadOnce:
    """Pieces of a table that were read to fit a schema, kept for the rows' encoding, which reads the same columns.

    Only tables that are small in memory are kept; copies of it, and what is pickled, begin empty.

    Args:
        most: bytes that are kept at most.
    """

    def __init__(self, most: int = 1 << 26) -> None:
        self.most = most
        self._of: tuple[str, dict[str, As]] | None = None
        self._pieces: list[Piece] = []

    def __reduce__(self) -> tuple[type[ReadOnce], tuple[int]]:
        return ReadOnce, (self.most,)

    def keeping(self, source: str, columns: Mapping[str, As], pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield pieces, and keep them if they all go in."""
        self._of, self._pieces = None, []
        size, kept = 0, list[Piece]()
        for piece in pieces:
            size += piece.rows.nbytes
            if size > self.most:
                kept.clear()
            else:
                kept.append(piece)
            yield piece
        if size <= self.most:
            self._of, self._pieces = (source, dict(columns)), kept

    def has(self, source: str, columns: Mapping[str, As]) -> bool:
        """Whether these columns of a source are kept, each as it is to be read."""
        return self._of is not None and self._of[0] == source and columns.items() <= self._of[1].items()

    def give(self, columns: Mapping[str, As]) -> Iterator[Piece]:
        """Yield these columns of the pieces, which are given up one by one."""
        self._of = None
        pieces, self._pieces = self._pieces[::-1], []
        while pieces:
            piece = pieces.pop()
            yield piece._replace(rows=piece.rows.select(list(columns)))


def placed(error: CellError, pieces: Sequence[Piece]) -> DataError:
    """Add file and row to an error about a cell of all pieces one below the other."""
    row = error.row or 0
    for piece in pieces:
        if row < piece.rows.num_rows:
            return CellError(str(error), None if error.row is None else row).at(piece.file, piece.start + 1)
        row -= piece.rows.num_rows
    return error
