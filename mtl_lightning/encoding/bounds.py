"""Sizes of tables that no table has: files that unpack out of all proportion, or say so, and headers without end."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtl_lightning.encoding.pages import refuse_lying_pages
from mtl_lightning.encoding.sizes import most_bytes
from mtl_lightning.errors import DataError

_COLUMNS = 100_000  # of the widest table
_HELD = 4  # bytes that a cell takes at least, once its row is in memory


class Bounded(io.RawIOBase):
    """A stream that unpacks a file, and ends with an error where that grows out of all proportion.

    Args:
        opened: the stream.
        file: the file that it unpacks.
    """

    def __init__(self, opened: Any, file: Path) -> None:
        super().__init__()
        self._opened, self._file, self._left = opened, file, most_bytes(file)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size``, or all of them.

        Raises:
            DataError: once there are too many.
        """
        found: bytes = self._opened.read(size if size >= 0 else None)
        self._left -= len(found)
        if self._left < 0:
            raise DataError(
                f"{self._file}: expected a table, found that its {self._file.stat().st_size} bytes unpack to more than "
                f"{most_bytes(self._file)}, as no table does. Do not trust the file; if you do, unpack it by hand."
            )
        return found

    def close(self) -> None:
        """Close the file."""
        self._opened.close()
        super().close()


def refuse_too_many_columns(names: Sequence[str], file: Path) -> None:
    """Refuse a header of more columns than a table has.

    Raises:
        DataError: for more than 100,000 columns.
    """
    if len(names) > _COLUMNS:
        raise DataError(
            f"{file}: expected a table of at most {_COLUMNS} columns, found {len(names)}. Write rows and columns "
            "the other way round, or fewer of them."
        )


def refuse_absurd_sizes(metadata: Any, file: Path, columns: int) -> None:
    """Refuse a Parquet file that says of itself, or of a page, that it unpacks out of all proportion, before it does.

    Args:
        metadata: the file's.
        file: the file.
        columns: how many of its columns are held in memory for each row.

    Raises:
        DataError: for sizes that a file of its size cannot have.
    """
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    rows = max([metadata.num_rows, sum(group.num_rows for group in groups)])
    unpacked = sum(group.total_byte_size for group in groups)
    sizes = [group.num_rows for group in groups] + [group.total_byte_size for group in groups]
    if min([rows, *sizes]) < 0 or max(_HELD * rows * max(columns, 1), unpacked) > most_bytes(file):
        raise DataError(
            f"{file}: expected a table, found that its {file.stat().st_size} bytes claim to hold {rows} rows, "
            f"{unpacked} bytes unpacked, as no table does. Do not trust the file; if you do, write it again in several."
        )
    refuse_lying_pages(metadata, file)
