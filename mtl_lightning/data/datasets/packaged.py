"""Data that comes in a Python package: where its files are, without importing it, and tables that are made of them."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4
from zipfile import BadZipFile, ZipFile

import pyarrow as pa
import pyarrow.csv as pc

from mtl_lightning.data.files import CHUNK
from mtl_lightning.names import did_you_mean, listed
from mtl_lightning.types import DataError

_MISSING = ["", "NA", "NaN", "nan"]
_BLOCK = 1 << 22  # bytes of CSV that are parsed at a time


class DataPackage(NamedTuple):
    """A package on PyPI whose folder ``data`` holds files.

    Attributes:
        name: what it is called, there and when it is imported.
        extra: our extra that brings it.
        files: the files' names; of several spellings, with ``|`` between, one is enough.
    """

    name: str
    extra: str
    files: tuple[str, ...]

    def find(self, root: Path) -> dict[str, Path] | None:
        """Return the files by the first spelling of their names: those in ``root``, else those of the package that is
        installed; None where neither has all of them.
        """
        folders = [root]
        with suppress(ValueError):  # a module that was made by hand has no spec
            spec = find_spec(self.name)
            folders += [Path(place) / "data" for place in (spec and spec.submodule_search_locations) or ()]
        for folder in folders:
            found = {names.split("|")[0]: _first(folder, names.split("|")) for names in self.files}
            there = {name: path for name, path in found.items() if path is not None}
            if len(there) == len(self.files):
                return there
        return None

    def absent(self, root: Path) -> DataError:
        """Return the error that neither the package nor its files are there."""
        names = [names.replace("|", " or ") for names in self.files]
        return DataError(
            f"{root}: expected {', '.join(names)}, or the package {self.name}, which brings them, found neither. "
            f"Install it, pip install 'mtl-lightning[{self.extra}]', or put the files of its folder `data` there."
        )


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def key_of(version: str, files: Mapping[str, Path]) -> str:
    """Return what is made of files goes by: a version of ours, and the SHA-256 of each file's content."""
    key = hashlib.sha256(version.encode())
    for name in sorted(files):
        key.update(f"{name} {files[name].stat().st_size}".encode())
        with files[name].open("rb") as file:
            while chunk := file.read(CHUNK):
                key.update(chunk)
    return key.hexdigest()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a path to write to, whose file takes the place of another when it is whole, or is removed.

    Raises:
        DataError: if nothing can be written there.
    """
    part = path.with_name(f".{path.stem}-{uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: expected to write the made table there, could not: {error.strerror or error}. "
            "Give another `root`, or make room in it."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def csv_pieces(path: Path, types: Mapping[str, Any]) -> Iterator[Any]:
    """Read some columns of a CSV file, or of the one in a zip archive, as record batches; ``NA`` and empty fields are
    missing.

    Args:
        path: the file.
        types: the columns, each with the Arrow type of its cells.

    Raises:
        DataError: for a file that cannot be read, lacks a column, or has a cell that is not what it should be.
    """
    options = pc.ReadOptions(block_size=_BLOCK)
    convert = pc.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=_MISSING, strings_can_be_null=True
    )
    try:
        with unpacked(path) as file:
            yield from pc.open_csv(file, read_options=options, convert_options=convert)
    except pa.ArrowKeyError as error:
        with unpacked(path) as file:
            names = pc.open_csv(file, read_options=options).schema.names
        absent = next(name for name in types if name not in names)
        raise DataError(
            f"{path}: expected a column {absent!r}, found {listed(names)}.{did_you_mean(absent, names)}"
        ) from error
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: expected the file as its package has it, found one that cannot be read: {error}. Install the "
            "package again, or get the file again."
        ) from error


@contextmanager
def unpacked(path: Path) -> Iterator[Any]:
    """Open a file for reading bytes; of a zip archive, the first file in it."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            yield file
            return
        with ZipFile(file) as archive, archive.open(archive.namelist()[0]) as first:
            yield first
