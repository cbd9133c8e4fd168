"""The file that ``--ckpt_path`` means, found before anything is made, because the data's schema is in it.

Relies on ``Trainer._checkpoint_connector._parse_ckpt_path``, which finds ``last`` and ``hpc`` where this trainer would
look for them; and on the entry ``best_model_path`` that ``ModelCheckpoint`` keeps in a checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from mtl_lightning.checkpoint_file import read
from mtl_lightning.types import ConfigurationError

SHARDED = "meta.pt"
"""What Lightning calls the file of plain data in a checkpoint that is a folder."""


def checkpoint_path(path: str | Path | None, stage: str, make_trainer: Callable[[], Trainer]) -> str | None:
    """Return the file, the folder of a sharded checkpoint, or the address that is meant; None for no checkpoint.

    Args:
        path: as given: also ``last``, ``best`` or ``hpc``, and a folder with checkpoints.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        make_trainer: gives a trainer like the one that will run, which is asked where it keeps checkpoints.

    Raises:
        ConfigurationError: if there is no such checkpoint, and for ``test`` and ``predict`` without one.
    """
    found: str | None = None if path is None else as_text(path)
    if found in ("last", "hpc") or (found is None and SLURMEnvironment.detect()):
        found = _of_lightning(found, stage, make_trainer())
    elif found == "best":
        found = _best(make_trainer())
    elif found is not None:
        found = _file(found)
    if found is None and (path is not None or stage in ("test", "predict")) and stage != "fit":
        where = f"found none for {str(path)!r}" if path is not None else "found no `--ckpt_path`"
        raise ConfigurationError(
            f"`{stage}`: expected trained weights, {where}. Without them the network's answers mean nothing. Give the "
            "file of a checkpoint: `--ckpt_path=FILE`."
        )
    return found


def as_text(path: str | Path) -> str:
    """Return a path or an address as it was given.

    The parser makes a ``Path`` of it or not, by what was imported before (Python keeps the first of two unions of the
    same types), and a ``Path`` takes one of an address's two slashes away.
    """
    scheme, colon, rest = str(path).partition(":/")
    if isinstance(path, str) or not colon or len(scheme) < 2 or not scheme.isalnum():
        return str(path)
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"


def part_file(path: str) -> str:
    """Return the file of a checkpoint that holds plain data: itself, or the one in the folder of a sharded one."""
    return str(Path(path) / SHARDED) if "://" not in path and Path(path).is_dir() else path


def _of_lightning(path: str | None, stage: str, trainer: Trainer) -> str | None:
    """Ask a trainer, which warns where it finds none; ``fit`` then starts anew.

    Lightning looks where this run would write. Where a logger numbers runs that is a new folder, in which there never
    is a last checkpoint; so the newest run that kept one has it.
    """
    fn = {"fit": TrainerFn.FITTING, "validate": TrainerFn.VALIDATING, "test": TrainerFn.TESTING}
    connector = trainer._checkpoint_connector
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = connector._parse_ckpt_path(fn.get(stage, TrainerFn.PREDICTING), path, True, False)
        except ValueError as error:
            raise ConfigurationError(f"--ckpt_path={path}: {error}") from error
    if found is None and path == "last":
        found = _newest([file for folder in _folders(trainer) for file in folder.glob("last*.ckpt")])
    if found is None and stage == "fit":  # elsewhere an error follows
        for warning in said:
            warnings.warn(warning.message, stacklevel=2)
    return None if found is None else str(found)


def _best(trainer: Trainer) -> str:
    """Return the best checkpoint by what the newest one in the trainer's folder says."""
    folders = _folders(trainer)
    saved = _newest([file for folder in folders for file in folder.glob("*.ckpt")])
    states: dict[str, Any] = read(saved, "cpu").get("callbacks", {}) if saved else {}
    paths = [str(state.get("best_model_path", "")) for name, state in states.items() if "ModelCheckpoint" in name]
    for path in filter(None, paths):
        for file in (Path(path), *(folder / Path(path).name for folder in folders)):  # the folder may have moved
            if file.is_file():
                return str(file)
    raise ConfigurationError(
        f"--ckpt_path=best: expected a checkpoint that says which is the best, found none in {[*map(str, folders)]}. "
        "Give the file itself: `--ckpt_path=FILE`."
    )


def _folders(trainer: Trainer) -> list[Path]:
    """Return where the trainer's callbacks keep checkpoints: with a logger that numbers runs, the newest run's."""
    resolve = "_ModelCheckpoint__resolve_ckpt_dir"
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return [_of_the_newest_run(Path(str(getattr(callback, resolve)(trainer)))) for callback in callbacks]


def _of_the_newest_run(folder: Path) -> Path:
    """Return ``version_2/checkpoints`` for ``version_3/checkpoints``, if the run 3 is yet to begin, or kept none."""
    if not folder.parent.name.startswith("version_") or any(folder.glob("*.ckpt")):
        return folder
    newest = _newest([*folder.parent.parent.glob(f"version_*/{folder.name}/*.ckpt")])
    return folder if newest is None else newest.parent


def _file(path: str) -> str:
    """Return a path or an address as it is, of a folder with checkpoints the last or only one."""
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    if "://" in path:
        return path
    place = Path(path)
    if not place.exists():
        raise ConfigurationError(f"--ckpt_path={path}: expected a file, found none there.")
    if not place.is_dir() or (place / SHARDED).is_file():
        return path
    files = sorted(place.glob("*.ckpt")) or sorted(place.glob("checkpoints/*.ckpt"))
    chosen = _newest([file for file in files if file.stem.startswith("last")])
    if chosen is None and len(files) == 1:
        chosen = files[0]
    if chosen is None:
        raise ConfigurationError(
            f"--ckpt_path={path}: expected a folder with one checkpoint, or with `last.ckpt`, found "
            f"{[file.name for file in files[:5]] or 'none'}. Name the file."
        )
    return str(chosen)


def _newest(files: Sequence[Path]) -> Path | None:
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
