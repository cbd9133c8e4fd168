"""CRC-32C of many rows of bytes at once, as `RFC 3720, appendix B.4 <https://www.rfc-editor.org/rfc/rfc3720>`_ has it.

A row is cut into pieces of 32 bytes, whose checksums are taken side by side. Since a checksum is linear over GF(2), two
neighbours make one: that of the first with as many zeros behind it as the second is long, XOR that of the second.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Words: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]
_POLYNOMIAL = 0x82F63B78  # the bits reversed
_PIECE = 32


def masked(rows: Bytes) -> Words:
    """Return the checksums (N,) of rows (N, L), L at least 4, as TFRecord files mask them."""
    found = crc32c(rows)
    made: Words = ((found >> 15) | (found << 17)) + np.uint32(0xA282EAD8)
    return made


def crc32c(rows: Bytes) -> Words:
    """Return the checksums (N,) of rows (N, L), L at least 4."""
    number, length = rows.shape
    pieces = 1 << (-(-length // _PIECE) - 1).bit_length()
    padded = np.zeros((number, pieces * _PIECE), np.uint8)  # zeros in front change nothing
    padded[:, -length:] = rows
    padded[:, padded.shape[1] - length :][:, :4] ^= 255  # the same as to begin with all bits set
    table, state = _table(), np.zeros(number * pieces, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(-1, _PIECE).T):
        state = table[(state ^ column) & 255] ^ (state >> 8)
    state, width = state.reshape(number, pieces), _PIECE
    while state.shape[1] > 1:
        state, width = _behind(state[:, ::2], _zeros(width)) ^ state[:, 1::2], 2 * width
    return ~state[:, 0]


@lru_cache(maxsize=1)
def _table() -> Words:
    """Return what a byte does to an empty checksum (256,)."""
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = np.where(state & 1, (state >> 1) ^ np.uint32(_POLYNOMIAL), state >> 1)
    return state


@lru_cache(maxsize=32)
def _zeros(number: int) -> Words:
    """Return what so many zeros behind it, a power of 2, make of each byte of a checksum (4, 256)."""
    if number == 1:
        state = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
        found: Words = _table()[state & 255] ^ (state >> 8)
        return found
    half = _zeros(number // 2)
    return _behind(half, half)


def _behind(state: Words, zeros: Words) -> Words:
    """Return checksums with zeros behind them."""
    low: Words = zeros[0][state & 255] ^ zeros[1][(state >> 8) & 255]
    high: Words = zeros[2][(state >> 16) & 255] ^ zeros[3][state >> 24]
    return low ^ high
