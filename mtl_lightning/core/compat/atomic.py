"""Checkpoint files that are whole or not there at all, and read as data.

Relies on ``Strategy.checkpoint_io`` being a ``TorchCheckpointIO`` unless the user gave another, and replaces its
``save_checkpoint`` and ``load_checkpoint``, whose own reads what comes from the web by unpickling it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import Strategy
from packaging.version import InvalidVersion, Version

from mtl_lightning import checkpoint_file
from mtl_lightning.errors import CheckpointError, ConfigurationError

_VERSION = "pytorch-lightning_version"


def _on_cpu(storage: Any, _: str) -> Any:
    return storage


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name beside its own, and renames it when it is complete.

    Lightning's own way writes to the system's temporary folder and *moves* the file, which between two file systems is
    a copy: a process killed meanwhile leaves half a file, in the place of an older checkpoint of that name. Remote
    paths are written as Lightning does.
    """

    SUFFIX = ".part"  # no checkpoint's, so that no search for the last one finds such a file

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``, which until then keeps what it held before.

        Raises:
            OSError: that names ``path``, where there is no room, or no right to write; nothing is left behind.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + self.SUFFIX)
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # else a machine that goes down may keep the name and lose the content
            part.replace(target)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__  # torch's writer complains of its own position, not of the disk
            if cause is None or cause.errno is None:
                raise
            raise OSError(cause.errno, cause.strerror, str(target)) from None

    def load_checkpoint(self, path: str | Path, map_location: Any = _on_cpu, weights_only: bool | None = None) -> Any:
        """Read a checkpoint of ours, wherever it is; see :func:`mtl_lightning.checkpoint_file.read`."""
        if weights_only is False:
            raise ConfigurationError(f"{path}: checkpoints are plain data: expected no `weights_only=False`.")
        checkpoint = checkpoint_file.read(path, map_location)
        _check_version(checkpoint.get(_VERSION), path)
        return checkpoint


def _check_version(found: Any, path: str | Path) -> None:
    """Refuse a checkpoint of which Lightning cannot tell from which of its versions to bring it to its own."""
    try:
        Version(found)
    except (InvalidVersion, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected under {_VERSION} the version of Lightning that wrote it, found {found!r:.40}: something "
            "else has written or changed it. Take another copy, or an earlier checkpoint."
        ) from error


def write_atomically(strategy: Strategy) -> None:
    """Let a strategy write checkpoints atomically if it writes them in Lightning's own way.

    A ``CheckpointIO`` that the user gave stays; an ``AsyncCheckpointIO`` of Lightning's own way is made anew.
    """
    given: Any = strategy.checkpoint_io
    if type(given) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
    elif type(given) is AsyncCheckpointIO and type(given.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AsyncCheckpointIO(AtomicCheckpointIO())
