"""Checkpoint files that are whole or not there at all.

Relies on ``Strategy.checkpoint_io`` being a ``TorchCheckpointIO`` unless the user gave another, and replaces its
``save_checkpoint``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name beside its own, and renames it when it is complete.

    Lightning's own way writes to the system's temporary folder and *moves* the file, which between two file systems is
    a copy: a process killed meanwhile leaves half a file, in the place of an older checkpoint of that name. Remote
    paths are written as Lightning does.
    """

    SUFFIX = ".part"  # no checkpoint's, so that no search for the last one finds such a file

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``, which until then keeps what it held before."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + self.SUFFIX)
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # else a machine that goes down may keep the name and lose the content
        part.replace(target)


def write_atomically(strategy: Strategy) -> None:
    """Let a strategy write checkpoints atomically if it writes them in Lightning's own way.

    A ``CheckpointIO`` that the user gave stays; ``AsyncCheckpointIO(AtomicCheckpointIO())`` is both.
    """
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
