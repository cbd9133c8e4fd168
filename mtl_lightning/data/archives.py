"""Archives unpacked where they belong, whole or not at all."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

from mtl_lightning.encoding.sizes import most_bytes
from mtl_lightning.errors import ConfigurationError, DataError

_CHUNK = 1 << 20  # bytes copied at a time
_BLOCK = 512  # bytes of a block of a tar file, which ends with blocks of zeros
_TARS = {
    ".tar": "r:",
    ".tar.gz": "r:gz",
    ".tgz": "r:gz",
    ".tar.bz2": "r:bz2",
    ".tbz2": "r:bz2",
    ".tar.xz": "r:xz",
    ".txz": "r:xz",
}
_BROKEN = (
    OSError,  # gzip's and bz2's errors too
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    NotImplementedError,  # a zip file's way of compressing that Python does not know
    RuntimeError,  # a zip file with a password
)


class _TooLargeError(tarfile.TarError):
    """An archive that fills the disk, or the memory."""

    def __init__(self) -> None:
        super().__init__("it unpacks to far more bytes than an archive of its size should; do not trust it")


class _Member(NamedTuple):
    name: str
    kind: str  # "file", "folder", or what else it is, in words
    open: Callable[[], IO[bytes] | None]


def unpack(archive: str | Path, into: str | Path) -> Path:
    """Unpack a ``.zip``, a tar file (``.tar``, also with ``.gz``, ``.bz2`` or ``.xz``), or one compressed file.

    An archive that would grow out of all proportion is refused: beyond 256 MiB and 250 times its own size.

    All names are looked at before anything is written: one that leads out of ``into``, a link and a device are
    refused. Files are unpacked into a folder of their own and moved when all of them are complete, so that a broken
    archive changes nothing; files that were in ``into`` already stay, but for those of the same name. Permissions and
    times are not taken over.

    Args:
        archive: the file; its kind is told by its name. A ``.gz``, ``.bz2`` or ``.xz`` file loses that ending.
        into: a folder, which is made.

    Returns:
        The folder.

    Raises:
        ConfigurationError: for an archive of another kind.
        DataError: that names the archive, and the member that is at fault, if it is one.
    """
    source, target = Path(archive), Path(into)
    if not source.is_file() or not source.stat().st_size:
        found = "an empty one" if source.is_file() else "no such file"
        raise DataError(f"{source}: expected an archive, found {found}. Get it again.")
    members_of = _reader(source)
    beside = target if target.is_dir() else target.parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=beside) as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        try:
            with members_of(source) as members:
                for member in members:
                    _check(source, member)
                left = most_bytes(source)
                for member in members:
                    left -= _write(member, folder, left)
        except _BROKEN as error:
            raise DataError(
                f"{source}: cannot unpack it: {error}. If the file is cut short or damaged, remove it and get it "
                "again; nothing was unpacked."
            ) from error
        _move(source, folder, target)
    return target


# ----------------------------------------------------------------------------------------------- the kinds of archives
def _reader(source: Path) -> Callable[[Path], AbstractContextManager[list[_Member]]]:
    name = source.name.lower()
    if name.endswith(".zip"):
        return _zip_members
    for ending, mode in _TARS.items():
        if name.endswith(ending):
            return partial(_tar_members, mode)
    packers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if source.suffix.lower() in packers:
        return partial(_only_member, packers[source.suffix.lower()])
    raise ConfigurationError(
        f"{source}: expected an archive with the ending .zip, .tar, .gz, .bz2 or .xz, found {source.suffix!r}. Unpack "
        "it by hand."
    )


@contextmanager
def _zip_members(source: Path) -> Iterator[list[_Member]]:
    with zipfile.ZipFile(source) as file:
        yield [_Member(info.filename, _zip_kind(info), partial(file.open, info)) for info in file.infolist()]


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)  # of archives made on Unix; else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "link" if kind == stat.S_IFLNK else "device"
    return "folder" if info.is_dir() else "file"


@contextmanager
def _tar_members(mode: Any, source: Path) -> Iterator[list[_Member]]:
    with tarfile.open(source, mode) as file:
        most = most_bytes(source)
        members = []
        for member in file:  # each costs memory
            members.append(member)
            if file.offset > most:
                raise _TooLargeError
        _check_end(file, most)
        yield [_Member(member.name, _tar_kind(member), partial(file.extractfile, member)) for member in members]


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isreg() or member.isdir():
        return "folder" if member.isdir() else "file"
    return "link" if member.islnk() or member.issym() else "device"


def _check_end(file: tarfile.TarFile, most: int) -> None:
    """Read what follows the last member: tarfile takes the end of a file that was cut between members for its end."""
    stream: Any = file.fileobj
    stream.seek(file.offset)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("the end of the archive is missing")
    while stream.read(_CHUNK):
        if stream.tell() > most:
            raise _TooLargeError


@contextmanager
def _only_member(opener: Any, source: Path) -> Iterator[list[_Member]]:
    yield [_Member(source.stem, "file", partial(opener, source))]


# -------------------------------------------------------------------------------------------------------------- members
def _check(source: Path, member: _Member) -> None:
    """Refuse what could end up, or lead, outside of the folder, on any system."""
    found = None if member.kind in ("file", "folder") else f"a {member.kind}"
    for path in (PurePosixPath(member.name), PureWindowsPath(member.name)):
        if path.anchor or ".." in path.parts:
            found = "a path that leads out of the folder"
    if found:
        raise DataError(
            f"{source}: expected only files and folders below the folder to unpack into, found {found}: "
            f"{member.name!r}. Nothing was unpacked; do not trust this archive."
        )


def _write(member: _Member, folder: Path, most: int) -> int:
    """Write a member of so many bytes at most; return how many they were."""
    place = folder / member.name
    if member.kind == "folder":
        place.mkdir(parents=True, exist_ok=True)
        return 0
    place.parent.mkdir(parents=True, exist_ok=True)
    content = member.open()
    if content is None:  # tarfile's answer for what is no file, which has been refused
        raise tarfile.ReadError(f"{member.name!r} cannot be read")
    with content, place.open("wb") as file:
        while chunk := content.read(_CHUNK):
            file.write(chunk)
            if file.tell() > most:
                raise _TooLargeError
        return file.tell()


def _move(source: Path, folder: Path, target: Path) -> None:
    """Give unpacked files their names; the ones in ``target`` stay, but for those of the same name."""
    if not target.exists():
        folder.replace(target)
        return
    inside, found = target.resolve(), sorted(folder.rglob("*"))
    places = [target / path.relative_to(folder) for path in found]
    for path, place in zip(found, places, strict=True):
        if path.is_dir() and not place.resolve().is_relative_to(inside):
            raise DataError(
                f"{source}: expected {place} to be a folder in {target}, found a link that leads out of it. Unpack it "
                "by hand, or remove the link."
            )
        if place.exists() and place.is_dir() != path.is_dir():
            raise DataError(
                f"{source}: expected to put a {'folder' if path.is_dir() else 'file'} at {place}, found a "
                f"{'folder' if place.is_dir() else 'file'} in its place. Move it away."
            )
    for path, place in zip(found, places, strict=True):
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)
