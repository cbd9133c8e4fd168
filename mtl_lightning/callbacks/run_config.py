"""The configuration of a run of the command line, in a file beside what the run writes; nobody's file is replaced."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger


class RunConfig(SaveConfigCallback):
    """Saves the configuration as ``config.yaml`` in the folder of the run's logs, or beside its checkpoints.

    A run that writes neither saves no configuration. A file of that name that is there already stays as it is, whoever
    wrote it, and the configuration goes into ``config-v1.yaml`` and so on, as checkpoints do, unless the two are alike.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, once, in the first process."""
        folder = None if self.already_saved else trainer.strategy.broadcast(run_folder(trainer, stage))
        self.already_saved = True
        if folder is None or not trainer.is_global_zero:
            return
        text = self.parser.dump(self.config, skip_none=False)
        stem, ending = os.path.splitext(self.config_filename)
        names = (f"{stem}-v{number}{ending}" if number else self.config_filename for number in count())
        next(name for name in names if _has(os.path.join(folder, name), text))


def run_folder(trainer: Trainer, stage: str) -> str | None:
    """Return where a run's own files are: its logs, else its checkpoints, else None."""
    for logger in trainer.loggers[:1]:
        return _log_folder(logger)
    if stage != "fit":
        return None
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            return str(callback.dirpath or os.path.join(trainer.default_root_dir, "checkpoints"))
    return None


def _log_folder(logger: Logger) -> str | None:
    """Return the folder of one run's logs, where Lightning puts its checkpoints too."""
    if isinstance(logger, TensorBoardLogger | CSVLogger):
        return str(logger.log_dir)
    if logger.save_dir is None:
        return None
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return os.path.join(str(logger.save_dir), str(logger.name), version)


def _has(path: str, text: str) -> bool:
    """Let a file hold a text: write it if there is none; whether it does."""
    files = get_filesystem(path)
    if files.exists(path):
        return bool(files.isfile(path) and files.cat_file(path) == text.encode())
    files.makedirs(os.path.dirname(path), exist_ok=True)
    if "://" in path:
        files.pipe_file(path, text.encode())
        return True
    try:
        with Path(path).open("x", encoding="utf-8", newline="\n") as file:  # another run may have been faster
            file.write(text)
    except FileExistsError:
        return False
    return True
