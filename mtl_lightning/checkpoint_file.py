"""Our part of a checkpoint file: plain data under one key, with the number of the format that it is written in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mtl_lightning.types import ConfigurationError

KEY = "mtl_lightning"
FORMAT = 2
"""What this version writes. It reads 1 (version 0.1.0), which held no number, as well."""


def read(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint of ours, whole.

    Raises:
        ConfigurationError: for a file of another kind, and for a format that this version does not know.
    """
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    if KEY not in checkpoint:
        raise ConfigurationError(
            f"{path}: expected a checkpoint of a MultiTaskModule, found keys {sorted(checkpoint)}."
        )
    part_of(checkpoint, path)
    return checkpoint


def read_part(path: str | Path) -> dict[str, Any]:
    """Return our part of a checkpoint file, on the CPU; see :func:`part_of`."""
    return part_of(torch.load(path, map_location="cpu", weights_only=True), path)


def part_of(checkpoint: Mapping[str, Any], where: str | Path = "The checkpoint") -> dict[str, Any]:
    """Return our part of a loaded checkpoint; empty if it has none.

    Args:
        checkpoint: as Lightning or ``torch.load`` gives it.
        where: what to call it in an error.

    Raises:
        ConfigurationError: for a format that this version does not know.
    """
    part: dict[str, Any] = checkpoint.get(KEY, {})
    found = part.get("format", 1)
    if part and found not in range(1, FORMAT + 1):
        raise ConfigurationError(
            f"{where}: expected a checkpoint of format {FORMAT} or older, found format {found!r}, written by "
            f"mtl_lightning {part.get('version', 'of an unknown version')}. Install that version or a later one."
        )
    return part
