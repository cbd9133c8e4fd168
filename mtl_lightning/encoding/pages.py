"""The headers of Parquet pages: Arrow takes as much memory for a page as its header claims, before it looks at it.

A header is a struct in Thrift's compact protocol, whose first three fields are the page's type and its sizes, unpacked
and packed. No library of Python reads them.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from mtl_lightning.encoding.sizes import most_bytes
from mtl_lightning.errors import DataError

_LARGEST = 1 << 31  # what a header can claim: its sizes have 32 bits
_DEPTH = 8  # of structs in structs; the deepest that are meant are 3
_UNPACKED, _PACKED = 2, 3  # the numbers of the fields
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)


def refuse_lying_pages(metadata: Any, file: Path) -> None:
    """Refuse a Parquet file with pages that claim to unpack out of all proportion, before any is unpacked.

    Arrow unpacks one page of each column at a time. Files so large that no claim could be out of proportion are not
    looked at.

    Args:
        metadata: the file's.
        file: the file.

    Raises:
        DataError: for such pages, and for headers that are none.
    """
    places = range(metadata.num_columns)
    if _LARGEST * len(places) <= most_bytes(file):
        return
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for group in range(metadata.num_row_groups):
            claims = [_largest_claim(metadata.row_group(group).column(place), content, file) for place in places]
            if sum(claims) > most_bytes(file):
                raise DataError(
                    f"{file}: expected a table, found that pages of its {file.stat().st_size} bytes claim to unpack to "
                    f"{sum(claims)}, as no table does. Do not trust the file; if you do, write it again in several."
                )


def _largest_claim(column: Any, content: mmap.mmap, file: Path) -> int:
    """Return the largest size that a page of a column claims to unpack to; of one without values none is read."""
    if column.num_values <= 0:
        return 0
    place = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < place:
        place = column.dictionary_page_offset
    end, claim = place + column.total_compressed_size, 0
    if place < 0 or not place <= end <= len(content):
        raise DataError(f"{file}: expected a whole Parquet file, found one that ends before its pages do.")
    while place < end:
        try:
            header, place = _struct(content, place)
            unpacked, packed = header[_UNPACKED], header[_PACKED]
        except (IndexError, KeyError) as error:
            raise DataError(f"{file}: expected a Parquet file, found a page without a header, at {place}.") from error
        if unpacked < 0 or packed < 0:
            raise DataError(f"{file}: expected a Parquet file, found a page of {min(unpacked, packed)} bytes.")
        claim, place = max(claim, unpacked), place + packed
    return claim


def _struct(content: mmap.mmap, place: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """Read a struct; return its integers by field, and where it ends.

    Raises:
        IndexError: where it has no end.
        KeyError: for what is none.
    """
    if depth > _DEPTH:
        raise KeyError(depth)
    found: dict[int, int] = {}
    field = 0
    while (head := content[place]) != _STOP:
        place += 1
        if head >> 4:
            field += head >> 4
        else:
            field, place = _integer(content, place)
        kind = head & 15
        if kind in _INTEGERS:
            found[field], place = _integer(content, place)
        elif kind not in (_TRUE, _FALSE):  # which are in the head
            place = _after(content, place, kind, depth)
    return found, place + 1


def _after(content: mmap.mmap, place: int, kind: int, depth: int) -> int:
    """Return where a value ends, which takes a byte at least."""
    first = content[place]
    if kind in (_TRUE, _FALSE, _BYTE):
        return place + 1
    if kind == _DOUBLE:
        return place + 8
    if kind in _INTEGERS:
        return _integer(content, place)[1]
    if kind == _BINARY:
        length, place = _varint(content, place)
        return place + length
    if kind == _STRUCT:
        return _struct(content, place, depth + 1)[1]
    if kind not in (_LIST, _SET):  # no header has maps
        raise KeyError(kind)
    number, inside = first >> 4, first & 15
    number, place = _varint(content, place + 1) if number == 15 else (number, place + 1)
    for _ in range(number):
        place = _after(content, place, inside, depth + 1)
    return place


def _integer(content: mmap.mmap, place: int) -> tuple[int, int]:
    """Read a number with its sign in its last bit, and return where it ends."""
    value, place = _varint(content, place)
    return (value >> 1) ^ -(value & 1), place


def _varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, and return where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise KeyError(place)
