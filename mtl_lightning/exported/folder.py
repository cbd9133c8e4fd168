"""The folder that an export is: what is in it, how it is sealed, written whole or not at all, and checked when read.

Neither torch nor a runtime is imported here. ``schema.json`` says all that is known of the network, and has the SHA-256
of every file: of the model, of the README but for the section that its readers fill in, and of its own bytes with
zeros in place of that sum.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mtl_lightning.errors import ExportError

KIND, FORMAT = "mtl_lightning export", 1
SCHEMA, CARD = "schema.json", "README.md"
YOURS = ("<!-- yours to fill in -->", "<!-- the rest is sealed -->")
"""Between these lines of the README anything may stand."""

_ZEROS = "0" * 64
_SEAL = re.compile(rb'"checksum": "([0-9a-f]{64})"')


def write(folder: str | Path, document: Mapping[str, Any], fill: Callable[[Path], str]) -> Path:
    """Write a folder: under another name first, which is then changed.

    Args:
        folder: where to; an older export there is replaced.
        document: what ``schema.json`` says, plain.
        fill: writes the files into an empty folder that it is given, and returns the README's text. Anything that it
            raises leaves no trace.

    Raises:
        ExportError: if something else is at that place.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        (new / CARD).write_text(fill(new), encoding="utf-8")
        (new / SCHEMA).write_bytes(_sealed(document, new))
        for file in new.iterdir():
            file.chmod(0o644)
            _sync(file)
        new.chmod(0o755)
        _replace(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def read(folder: str | Path) -> dict[str, Any]:
    """Return what ``schema.json`` says, after all files were compared with their checksums.

    Raises:
        ExportError: for a folder that is no export, is of another format, or is not as it was written.
    """
    folder = Path(folder)
    try:
        data = (folder / SCHEMA).read_bytes()
    except OSError as error:
        raise ExportError(
            f"{folder}: expected an exported folder, found no {SCHEMA} that can be read ({error.strerror}). Write one "
            "with `mtl-lightning export` or `module.export(folder)`."
        ) from error
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ExportError(f"{folder / SCHEMA}: expected JSON, found a damaged file ({error}). Export anew.") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ExportError(f"{folder / SCHEMA}: expected the schema of an mtl_lightning export, found another file.")
    if document.get("format") != FORMAT:
        written = (document.get("versions") or {}).get("mtl_lightning", "another version")
        raise ExportError(
            f"{folder}: expected an export of format {FORMAT}, which this version reads, found format "
            f"{document.get('format')!r}, written by mtl_lightning {written}. Export anew from the checkpoint, or use "
            "that version."
        )
    seal = _SEAL.findall(data)
    if len(seal) != 1 or _sum(_unsealed(data)) != seal[0].decode():
        raise ExportError(f"{folder / SCHEMA}: its checksum is another: the file has been changed. Export anew.")
    for name, expected in _checksums(folder, document).items():
        file = folder / name
        found = _sum_of(file) if file.is_file() else "no such file"
        if found != expected:
            raise ExportError(
                f"{file}: expected the SHA-256 {expected[:12]}... of {SCHEMA}, found {found[:12]}: the file "
                "has been changed or damaged. Copy the folder again, or export anew."
            )
    return document


def refuse_foreign(folder: str | Path) -> None:
    """Refuse to write where something other than an export is.

    Raises:
        ExportError: that says what is there.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    try:
        document = json.loads((folder / SCHEMA).read_text(encoding="utf-8")) if SCHEMA in found else {}
        ours = {SCHEMA, *document["checksums"]} if document.get("kind") == KIND else set()
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        ours = set()
    if not folder.is_dir() or not ours >= {*found}:
        what = f"with {', '.join(name for name in found if name not in ours)[:200]}" if found else "that is a file"
        raise ExportError(
            f"{folder}: expected a new folder, or an older export to replace, found one {what}. Choose another "
            "folder, or move what is there."
        )


def _replace(folder: Path, new: Path) -> None:
    old = new.with_name(f"{new.name}.old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


# ------------------------------------------------------------------------------------------------------------ checksums
def _sealed(document: Mapping[str, Any], folder: Path) -> bytes:
    sums = {file.name: _sum_of(file) for file in sorted(folder.iterdir())}
    whole = {"kind": KIND, "format": FORMAT, **document, "checksums": sums, "checksum": _ZEROS}
    try:
        data = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ExportError(f"{SCHEMA}: expected plain data that JSON can hold, found other: {error}.") from error
    if len(_SEAL.findall(data)) != 1:
        raise ExportError(f'{SCHEMA}: a name or value in it holds `"checksum": "..."`, which only its seal may.')
    return data.replace(_ZEROS.encode(), _sum(data).encode())


def _unsealed(data: bytes) -> bytes:
    return _SEAL.sub(b'"checksum": "' + _ZEROS.encode() + b'"', data)


def _checksums(folder: Path, document: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums by file; a name that leads out of the folder is refused."""
    sums = document.get("checksums")
    model = (document.get("model") or {}).get("file")
    if not isinstance(sums, dict) or not {CARD, model} <= sums.keys():
        raise ExportError(f"{folder / SCHEMA}: expected checksums of {CARD} and of the model, found {sums!r:.200}.")
    for name in sums:
        if Path(name).name != name or (folder / name).is_symlink():
            raise ExportError(f"{folder / SCHEMA}: expected names of files in the folder, found {name!r}.")
    return sums


def _sum_of(file: Path) -> str:
    if file.name == CARD:
        start, end = (mark.encode() for mark in YOURS)
        before, _, rest = file.read_bytes().partition(start)
        _, found, after = rest.partition(end)
        return _sum(before + start + found + after)
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
