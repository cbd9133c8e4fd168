"""Texts as numbers of buckets, the same on every machine; and the set of buckets that training met, as plain data."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection

import numpy as np
import xxhash
from numpy.typing import NDArray

from mtl_lightning.errors import DataError

__all__ = ["bitmap_of", "buckets_of", "packed"]


def buckets_of(texts: Collection[str], buckets: int) -> NDArray[np.int64]:
    """Return the bucket of each text (N,), from 0: its XXH3 (https://xxhash.com, 64 bits, seed 0, of UTF-8) modulo
    their number.
    """
    digest = xxhash.xxh3_64_intdigest
    try:
        found = [digest(text.encode()) for text in texts]
    except UnicodeEncodeError:  # halves of characters, which no file holds
        found = [digest(text.encode("utf8", "surrogatepass")) for text in texts]
    places: NDArray[np.int64] = (np.array(found, dtype=np.uint64) % np.uint64(buckets)).astype(np.int64)
    return places


def packed(met: NDArray[np.bool_]) -> str:
    """Return flags (N,) as text: bits, the first of a byte the highest, in base64."""
    return base64.b64encode(np.packbits(met).tobytes()).decode()


def bitmap_of(text: str, size: int) -> NDArray[np.bool_]:
    """Read back what :func:`packed` gave of so many flags.

    Raises:
        DataError: for anything else.
    """
    try:
        found = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DataError(f"Expected {size} bits in base64, found {text!r:.40}.") from error
    if len(found) != (size + 7) // 8:
        raise DataError(f"Expected {size} bits in base64, found {8 * len(found)}. The schema has been changed.")
    return np.unpackbits(found, count=size).astype(np.bool_)
