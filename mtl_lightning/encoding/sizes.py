"""How much a packed file may unpack to."""

from __future__ import annotations

from pathlib import Path

_FREE, _RATIO = 1 << 28, 250  # a file may unpack to so many bytes, and beyond that to so many times its own size


def most_bytes(source: Path) -> int:
    """Return how many bytes a packed file may unpack to: 256 MiB, and 250 times its own size beyond that."""
    return _FREE + _RATIO * source.stat().st_size
