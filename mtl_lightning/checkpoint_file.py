"""Checkpoint files, read as data in this one place: never unpickled, never larger than they are, never damaged.

Our part of one is plain data under one key, with the number of the format that it is written in. Files of torch are
zip archives, whose checksums of every entry torch writes and does not read: here they are compared, so that a bit that
flipped on a disk is found in any weight or state, in files of any version, at about half the cost of loading them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.request import urlopen

import torch

from mtl_lightning.errors import CheckpointError, MissingCheckpointError

__all__ = ["FORMAT", "KEY", "check", "part_of", "read", "read_part", "read_plain"]

KEY = "mtl_lightning"
FORMAT = 2
"""What this version writes. It reads 1 (version 0.1.0), which held no number, as well."""

_NEEDED = ("config", "by_code", "task_names", "input_spec", "processes")
_KINDS: dict[str, type] = {
    **dict.fromkeys(("config", "by_code", "input_spec", "schema", "data", "trivial_predictions", "calibration"), dict),
    **dict.fromkeys(("task_names", "processes", "optimizers"), list),
    "validation_is_due": bool,
}
_TOP: dict[str, type] = {
    **dict.fromkeys(("state_dict", "callbacks", "loops"), dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("epoch", "global_step"), int),
}
_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 30.0  # seconds to wait for an answer
_AGAIN = "Take another copy, or an earlier checkpoint."


# ---------------------------------------------------------------------------------------------------------- whole files
def read(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint of ours, whole, all checksums compared.

    Args:
        path: a file, or an address: ``https://``, or whatever fsspec knows.
        map_location: where to put the tensors, as in ``torch.load``.

    Raises:
        MissingCheckpointError: if there is no such file.
        CheckpointError: for a file that is damaged, cut short, of another kind, or of a format that this version does
            not know.
    """
    with _local(path) as file:
        _check_archive(path, file, only_plain=False)
        checkpoint: dict[str, Any] = _load(path, file, map_location=map_location)
    check(checkpoint, path)
    return checkpoint


def read_part(path: str | Path) -> dict[str, Any]:
    """Return our part of a checkpoint file, on the CPU, without reading the weights; empty if it has none.

    Errors are those of :func:`read`.
    """
    return part_of(read_plain(path), path)


def read_plain(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint file without the weights and the optimizers' states, which are not read; on the CPU.

    Empty if it is none. Errors are those of :func:`read`.
    """
    with _local(path) as file:
        _check_archive(path, file, only_plain=True)
        checkpoint = _load(path, file, map_location="cpu", mmap=True)
    found = checkpoint if isinstance(checkpoint, dict) else {}
    return {name: value for name, value in found.items() if name not in ("state_dict", "optimizer_states")}


def check(checkpoint: Any, where: str | Path = "The checkpoint", *, weights: bool = True) -> None:
    """Refuse what was read from a file but is no checkpoint of ours.

    Args:
        checkpoint: as Lightning or ``torch.load`` gives it.
        where: what to call it in an error.
        weights: whether they must be in it; where parameters are sharded, the strategy has taken them out.

    Raises:
        CheckpointError: that says what was found.
    """
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        keys = sorted(map(str, checkpoint))[:12] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise CheckpointError(f"{where}: expected a checkpoint of a MultiTaskModule, found keys {keys}.")
    part = part_of(checkpoint, where)
    lacking = [name for name in _NEEDED if name not in part]
    lacking += ["state_dict"] if weights and "state_dict" not in checkpoint else []
    if lacking:
        raise CheckpointError(
            f"{where}: expected a checkpoint with {', '.join(lacking)}, found one without: something else has "
            f"written or changed it. {_AGAIN}"
        )
    _check_kinds(checkpoint, _TOP, where, "")


def part_of(checkpoint: Mapping[str, Any], where: str | Path = "The checkpoint") -> dict[str, Any]:
    """Return our part of a loaded checkpoint; empty if it has none.

    Args:
        checkpoint: as Lightning or ``torch.load`` gives it.
        where: what to call it in an error.

    Raises:
        CheckpointError: for a format that this version does not know.
    """
    part: dict[str, Any] = checkpoint.get(KEY, {})
    if not isinstance(part, dict):
        raise CheckpointError(f"{where}: expected a dict under {KEY!r}, found {type(part).__name__}. {_AGAIN}")
    found = part.get("format", 1)
    if part and (type(found) is not int or found not in range(1, FORMAT + 1)):
        raise CheckpointError(
            f"{where}: expected a checkpoint of format {FORMAT} or older, found format {found!r:.40}, written by "
            f"mtl_lightning {part.get('version', 'of an unknown version')!s:.40}. Install that version or a later one."
        )
    _check_kinds(part, _KINDS, where, f"{KEY}.")
    return part


# -------------------------------------------------------------------------------------------------------------- details
def _check_kinds(entries: Mapping[str, Any], kinds: Mapping[str, type], where: str | Path, within: str) -> None:
    """Refuse entries of another type than they are written with; any may be missing, or None."""
    for name, kind in kinds.items():
        if not isinstance(entries.get(name), kind | None):
            raise CheckpointError(
                f"{where}: expected a {kind.__name__} under {within}{name}, found {type(entries[name]).__name__}: "
                f"something else has written or changed it. {_AGAIN}"
            )


@contextmanager
def _local(path: str | Path) -> Iterator[Path]:
    """Give a file of this machine with the content of ``path``, which may be elsewhere."""
    address = str(path)
    with tempfile.TemporaryDirectory(prefix="mtl-lightning-", ignore_cleanup_errors=True) as folder:
        try:
            if "://" not in address:
                local = Path(path)
                with local.open("rb"):  # a folder, or no permission, is told here
                    pass
            else:
                local = Path(folder) / "checkpoint"
                _fetch(address, local)
        except FileNotFoundError as error:
            raise MissingCheckpointError(f"{path}: expected a checkpoint file, found no such file.") from error
        except (OSError, ValueError, ImportError) as error:  # the last two: fsspec on addresses that it does not know
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"{path}: expected a checkpoint file, which cannot be read: {reason}.") from error
        yield local


def _fetch(address: str, local: Path) -> None:
    """Copy what is at an address into a file."""
    import fsspec  # type: ignore[import-untyped]  # it ships no types; torch brings it; most runs do not need it

    web = address.startswith(("http://", "https://"))
    with urlopen(address, timeout=_TIMEOUT) if web else fsspec.open(address, "rb") as source, local.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)


def _check_archive(path: str | Path, file: Path, *, only_plain: bool) -> None:
    """Refuse a file that is not whole, or that would be larger in memory than it is.

    Args:
        path: what to call it in an error.
        file: where it is.
        only_plain: compare the checksum of the plain data, and not those of the tensors.
    """
    size = os.path.getsize(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
                raise CheckpointError(
                    f"{path}: expected a checkpoint as torch writes it, found one whose parts are compressed: it may "
                    "be made to fill the memory. Do not trust this file."
                )
            if any(entry.compress_size != entry.file_size or entry.external_attr for entry in entries):
                raise zipfile.BadZipFile("the directory is not as torch writes it")  # which would read zeros there
            known = any(entry.CRC for entry in entries)  # torch can be told to write zeros instead
            for entry in entries if known else ():
                if not only_plain or entry.filename.endswith("/data.pkl"):
                    with archive.open(entry) as content:
                        while content.read(_CHUNK):  # at its end, it compares the checksum
                            pass
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        with file.open("rb") as content:
            kind = "damaged or cut short" if content.read(2) == b"PK" else "none, or damaged"
        raise CheckpointError(
            f"{path}: expected a checkpoint file, found one that is {kind} ({size} bytes; {error}). {_AGAIN}"
        ) from error


def _load(path: str | Path, file: Path, **options: Any) -> Any:
    """Read plain data and tensors."""
    try:
        return torch.load(file, weights_only=True, **options)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected plain data and tensors, found what only unpickling could read, which may run code. It "
            "has not been loaded."
        ) from error
    except Exception as error:  # whatever torch's reader meets in a file that is not what it should be
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{path}: expected a checkpoint file, found one that cannot be read: {type(error).__name__}: "
            f"{reason:.200}. {_AGAIN}"
        ) from error
