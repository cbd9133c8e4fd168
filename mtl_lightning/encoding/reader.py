"""CSV and Parquet files as record batches, with errors that name file and row."""

from __future__ import annotations

import codecs
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from mtl_lightning.encoding.bounds import Bounded, refuse_absurd_sizes, refuse_too_many_columns
from mtl_lightning.encoding.cells import is_text
from mtl_lightning.errors import ConfigurationError, DataError
from mtl_lightning.names import did_you_mean, listed

Paths: TypeAlias = str | Path | Sequence[str | Path]
As: TypeAlias = Literal["number", "text"]

_LINE = 1 << 16  # bytes in which a first line should end
_BLOCK = 1 << 22  # bytes of CSV that are parsed at a time
_ROWS = 1 << 16  # rows of Parquet that are read at a time
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"PAR1": "parquet", b"PK\x03\x04": "zip"}
"""The first bytes of files, by which they are told whatever their names are."""
_DELIMITERS = {";": "';'", "\t": '"\\t"', "|": "'|'", ",": "','"}
_PARQUET = (".parquet", ".pq")
_TEXT = (".csv", ".tsv", ".txt", ".data")
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): ?(.*)", re.DOTALL)
_UNREADABLE = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", re.DOTALL)


class UnreadableNumberError(DataError):
    """A cell of a text file that Arrow cannot read as a number; it may be one, spelled in another way."""


class Piece(NamedTuple):
    """Consecutive rows of a file."""

    file: Path
    start: int  # the file's rows before it
    rows: Any  # an Arrow record batch


class TableFiles:
    """Files with the same columns, read a piece at a time, in the order of their names.

    A path is a file, a folder (all its ``.csv``, ``.tsv``, ``.txt``, ``.data``, ``.parquet`` and ``.pq`` files, those
    of its folders too), a pattern such as ``logs/2024-*.csv.gz``, or a list of such. Text files may be compressed
    (gzip, Zstandard, bzip2, whatever their names are). A file of another name is read as CSV, unless it begins as
    Parquet does.

    Args:
        paths: where the rows are.
        delimiter: what separates the fields of a text file; by default a tab in ``.tsv`` files and else a comma.
        header: the names of the columns, for text files whose first line has none.
        encoding: of text files.
        missing: spellings of missing values in columns of numbers.

    Raises:
        ConfigurationError: for a delimiter of several characters, and an unknown encoding.
        DataError: if there is no file; later for files of sizes that no table has
            (:mod:`~mtl_lightning.encoding.bounds`).
    """

    def __init__(
        self,
        paths: Paths,
        *,
        delimiter: str | None = None,
        header: Sequence[str] | None = None,
        encoding: str = "utf8",
        missing: Sequence[str] = (),
    ) -> None:
        if delimiter is not None and len(delimiter) != 1:
            raise ConfigurationError(
                f"Expected a `delimiter` of one character, found {delimiter!r}. Rewrite the files with another one."
            )
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ConfigurationError(f"Expected an `encoding` such as utf8 or latin1, found {encoding!r}.") from error
        self.files = find_files(paths)
        self.delimiter, self.header, self.encoding = delimiter, header, encoding
        self._null = [*dict.fromkeys(blank + text for text in ("", " ", *missing) for blank in ("", " "))]
        self._names: dict[Path, dict[str, str]] = {}  # as they are used, and as they stand in the file

    def names(self, file: Path | None = None) -> list[str]:
        """Return the names of a file's columns, of the first file by default, without the blanks around them."""
        return list(self._spelled(self.files[0] if file is None else file))

    def _spelled(self, file: Path) -> dict[str, str]:
        if file not in self._names:
            with _readable(file):
                if self.header is None and not is_parquet(file):
                    self._check_delimiter(file)
                raw = pq.read_schema(file).names if is_parquet(file) else self._open(file).schema.names
                refuse_too_many_columns(raw, file)
            self._names[file] = dict(zip(stripped(raw, file), raw, strict=True))
        return self._names[file]

    def _check_delimiter(self, file: Path) -> None:
        """Refuse a first line in which another delimiter stands and the expected one does not."""
        with _stream(file) as opened:
            first = (opened.read(_LINE).decode(self.encoding, "replace").splitlines() or [""])[0]
        used = self._delimiter(file)
        other = [mark for mark in _DELIMITERS if mark in first]
        if other and used not in first:
            raise DataError(
                f"{file}: expected columns with {_DELIMITERS.get(used, repr(used))} between them, found a single one, "
                f"{first[:100]!r}. Give the delimiter: `delimiter: {_DELIMITERS[other[0]]}`."
            )

    def _delimiter(self, file: Path) -> str:
        suffix = Path(file.stem if file.suffix in _COMPRESSED else file.name).suffix
        return self.delimiter or ("\t" if suffix == ".tsv" else ",")

    def pieces(self, columns: Mapping[str, As]) -> Iterator[Piece]:
        """Read some columns of all files.

        Args:
            columns: the columns, each with how it is best read: from a text file ``"number"`` parses it to float64,
                ``"text"`` gives a dictionary of texts. Columns of Parquet come with the type that they have.

        Raises:
            DataError: for a file that lacks a column, cannot be read to its end, has a row with another number of
                fields, or a number that is none; it names the file and the row, counted from 1 without the header.
        """
        for file in self.files:
            spelled = self._spelled(file)
            for name in columns:
                if name not in spelled:
                    raise DataError(
                        f"{file}: expected a column {name!r}, found {listed([*spelled])}.{did_you_mean(name, spelled)}"
                    )
            wanted: Mapping[str, As] = columns or {next(iter(spelled)): "text"}  # to learn the number of rows at least
            raw = {spelled[name]: kind for name, kind in wanted.items()}
            start = 0
            with _readable(file, [*spelled], headed=self.header is None):
                for batch in self._batches(file, raw):
                    yield Piece(file, start, batch.rename_columns(list(wanted)))
                    start += batch.num_rows

    def _batches(self, file: Path, columns: Mapping[str, As]) -> Iterator[Any]:
        if not is_parquet(file):
            yield from self._open(file, columns)
            return
        schema = pq.read_schema(file)
        repeated = [name for name, kind in columns.items() if kind == "text" and is_text(schema.field(name))]
        with pq.ParquetFile(file, read_dictionary=repeated) as opened:
            refuse_absurd_sizes(opened.metadata, file, len(columns))
            for batch in opened.iter_batches(_ROWS, columns=list(columns)):
                yield batch.select(list(columns))  # they come in the file's order

    def _open(self, file: Path, columns: Mapping[str, As] | None = None) -> Any:
        """Open a text file: with some columns, or all of them to learn their names."""
        kinds = {"number": pa.float64(), "text": pa.dictionary(pa.int32(), pa.string())}
        options = {"include_columns": list(columns)} if columns else {}
        types = {name: kinds[kind] for name, kind in (columns or {}).items()}
        return pc.open_csv(
            _stream(file),
            # One thread: only then does Arrow know the number of a row that it cannot read.
            read_options=pc.ReadOptions(
                use_threads=False, block_size=_BLOCK, column_names=self.header, encoding=self.encoding
            ),
            parse_options=pc.ParseOptions(delimiter=self._delimiter(file), newlines_in_values=True),
            convert_options=pc.ConvertOptions(
                column_types=types, null_values=self._null, strings_can_be_null=False, **options
            ),
        )


def find_files(paths: Paths) -> list[Path]:
    """Return the files that are meant, in the order of their names for each path given.

    Raises:
        DataError: if a path leads to no file.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        place = Path(path)
        if place.is_dir():
            inside = sorted(file for file in place.rglob("*") if file.is_file() and _is_table(file.relative_to(place)))
            if not inside:
                raise DataError(f"{place}: expected a folder with {', '.join((*_TEXT, *_PARQUET))} files, found none.")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
            if not matches:
                raise DataError(f"{path}: expected a file, a folder or a pattern of files, found none there.")
            found += matches
    if not found:
        raise DataError("Expected at least one path of a table, found none.")
    return found


def stripped(names: Sequence[str], file: Path) -> list[str]:
    """Return the names of a file's columns without the blanks around them.

    Raises:
        DataError: for a name that two columns have.
    """
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file}: expected columns of different names, found {twice!r} more than once.")
    return names


def is_parquet(file: Path) -> bool:
    """Whether a file is read as Parquet: by its name, or by how it begins."""
    return file.suffix in _PARQUET or _kind(file) == "parquet"


def _stream(file: Path) -> Any:
    """Open a text file, perhaps a compressed one."""
    kind = _kind(file)
    if kind == "zip":
        raise DataError(f"{file}: expected CSV or Parquet, found a ZIP archive. Unpack it, and give what is in it.")
    compression = kind or _COMPRESSED.get(file.suffix)
    opened = pa.input_stream(str(file), compression=compression)
    return opened if compression is None else pa.PythonFile(Bounded(opened, file), "r")


def _kind(file: Path) -> str | None:
    """Return what a file is by its first bytes: a compression, ``parquet`` or ``zip``; None for plain text."""
    with file.open("rb") as opened:
        begins = opened.read(4)
    return next((kind for magic, kind in _MAGIC.items() if begins.startswith(magic)), None)


def _is_table(file: Path) -> bool:
    """Whether a file of a folder belongs to the table; hidden ones and ``_SUCCESS`` and its like do not."""
    if any(part.startswith((".", "_")) for part in file.parts):
        return False
    return Path(file.stem if file.suffix in _COMPRESSED else file.name).suffix in (*_TEXT, *_PARQUET)


@contextmanager
def _readable(file: Path, names: Sequence[str] = (), *, headed: bool = True) -> Iterator[None]:
    """Say in words why a file cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        message = str(error).rstrip(".")
        if ragged := _RAGGED.search(message):
            row, wanted, got, text = ragged.groups()
            raise DataError(
                f"{file}, row {int(row) - headed}: expected {wanted} fields, found {got}: {text[:100]!r}. Correct the "
                "row; a field that holds the delimiter must stand in double quotes."
            ) from error
        if unreadable := _UNREADABLE.search(message):
            column, row, text = unreadable.groups()
            raise UnreadableNumberError(
                f"{file}, row {int(row) - headed}: column {names[int(column)]!r}: expected a number, found {text!r}. "
                "Correct it, name it in `missing_values`, or declare the column as categorical."
            ) from error
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(
            f"{file}: expected a file that can be read to its end, found: {message}. It may be cut short, of another "
            "format than its name says, or have another `encoding`."
        ) from error
