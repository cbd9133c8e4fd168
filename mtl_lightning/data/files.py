"""Files of datasets: downloads that can be taken up again, and checksums; unpacking is in ``archives``."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.data.archives import unpack
from mtl_lightning.types import ConfigurationError, DataError

__all__ = ["check_sha256", "download", "existing", "text_rows", "unpack"]

CHUNK = 1 << 20  # bytes read at a time
PART = ".part"  # of a file that is not complete
_FIRST_PAUSE = 1.0  # seconds before the second try; doubled each time
_BUSY = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers that another try may change
_NETWORK = (URLError, TimeoutError, ConnectionError, ssl.SSLError, HTTPException)  # errors that are not the disk's


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    tries: int = 5,
    timeout: float = 30.0,
    progress: bool = True,
) -> Path:
    """Fetch a file, unless it is there already.

    Bytes go to ``<path>.part``, which gets its name when it is complete and its checksum is right: a file at ``path``
    is always whole, and is not read again. What has been fetched is kept when the connection breaks, and the next try,
    or the next call, asks for the rest (HTTP ``Range``); a server that sends everything all the same is read from the
    start. Several processes may ask for one file: one fetches it, the others wait.

    Without a checksum only the length is checked, and a file that the server has changed between two calls would be
    put together of both versions: give one of the checksums wherever the publisher does.

    Args:
        url: an ``http``, ``https`` or ``file`` address.
        path: where the file goes; its folder is made.
        sha256: the sum of the whole file, in hexadecimal digits.
        md5: the same, for data whose publisher gives no better.
        tries: how often in a row to try without getting any further; pauses of 1, 2, 4, ... seconds lie between.
        timeout: how long to wait for an answer, in seconds.
        progress: show a bar.

    Returns:
        The path.

    Raises:
        ConfigurationError: for another kind of address.
        DataError: if the file cannot be fetched (what was, is kept), or has another checksum (then it is removed).
    """
    target = Path(path)
    if not url.startswith(("http://", "https://", "file://")):
        raise ConfigurationError(f"Expected an address that starts with http://, https:// or file://, found {url!r}.")
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with FileLock(lock):
        if not target.exists():  # another process may have fetched it meanwhile
            part = target.with_name(target.name + PART)
            continued = part.exists()
            _fetch(url, part, tries, timeout, progress)
            if continued and _wrong_sum(part, sha256, md5):  # the server may have another file now
                part.unlink()
                _fetch(url, part, tries, timeout, progress)
            if wrong := _wrong_sum(part, sha256, md5):
                part.unlink()
                raise DataError(
                    f"{url}: {wrong}. The file was removed. Try again; if the sum stays the same, the publisher has "
                    f"changed the file: get the right one by hand and put it at {target}."
                )
            part.replace(target)
        with suppress(OSError):  # some systems keep a file that is open
            lock.unlink()  # whoever waits for it finds the file first
    return target


def check_sha256(path: str | Path, expected: str) -> None:
    """Check a file's SHA-256.

    Raises:
        DataError: that gives both sums; the file stays.
    """
    if wrong := _wrong_sum(existing(path), expected, None):
        raise DataError(f"{path}: {wrong}. Remove the file and get it again.")


def existing(path: str | Path, remedy: str = "") -> Path:
    """Return the path of a file that is there.

    Raises:
        DataError: that names the file, and the remedy.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: expected a file, found none. {remedy}".rstrip())
    return Path(path)


# ------------------------------------------------------------------------------------------------------------ checksums
def text_rows(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not blank, each after its number, from 1; a byte-order mark is dropped.

    Raises:
        DataError: that names the file, if it cannot be read or is no text in UTF-8.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: expected a text file, found one that cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, row {row}: expected text in UTF-8, found bytes that are none. Save the file in this encoding, or "
            "get it again."
        ) from error
    return [(row, line) for row, line in enumerate(lines, start=1) if line.strip()]


def _wrong_sum(path: Path, sha256: str | None, md5: str | None) -> str | None:
    """Say which sums were expected and found, if they differ."""
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None and (found := _sum_of(path, name)) != expected.lower():
            return f"expected the {name} {expected.lower()}, found {found} ({path.stat().st_size} bytes)"
    return None


def _sum_of(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- fetching
def _fetch(url: str, part: Path, tries: int, timeout: float, progress: bool) -> None:
    """Bring ``part`` to its full length, going on where it ends."""
    failed, longest = 0, _size(part)
    while True:
        try:
            return _fetch_once(url, part, timeout, progress)
        except _NETWORK as error:
            failed = failed + 1 if _size(part) <= longest else 1
            longest = max(longest, _size(part))
            final = url.startswith("file:") or (isinstance(error, HTTPError) and error.code not in _BUSY)
            if final or failed >= tries:
                kept = f" {_size(part)} bytes of it are kept in {part}; the next try goes on there." * part.exists()
                raise DataError(f"{url}: the download failed: {_reason(error)}.{kept}") from error
        time.sleep(_FIRST_PAUSE * 2 ** (failed - 1))


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, HTTPError) else str(getattr(error, "reason", error)) or repr(error)


def _fetch_once(url: str, part: Path, timeout: float, progress: bool) -> None:
    """Ask for what is missing, and write it.

    Raises:
        OSError: if the connection fails, or ends before the file does; or the disk's errors.
    """
    have = _size(part)
    headers = {"User-Agent": "mtl-lightning", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        if error.code == 416 and _whole(error.headers.get("Content-Range")) == have:
            return  # nothing is missing
        if error.code == 416 and have:  # more than there is: of another file
            part.unlink()
            raise ConnectionError("the part fetched before was longer than the file") from error
        raise
    with answer:
        start = _start(answer)
        if start not in (0, have):
            raise ConnectionError("the server sent another part of the file than was asked for")
        left = _number(answer.headers.get("Content-Length"))
        total = None if left is None else start + left
        with part.open("ab" if start else "wb") as file, _bar(part, start, total, progress) as bar:
            while chunk := answer.read1(CHUNK):  # read() would lose what came before a break
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())  # else a machine that goes down may keep the name and lose the content
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the connection ended after {_size(part)} of {total} bytes")


def _start(answer: Any) -> int | None:
    """Return the first byte that an answer holds: 0, unless it is a part; None of a part that does not say."""
    if answer.status != 206:
        return 0
    given = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return _number(given[1]) if given else None


def _whole(content_range: str | None) -> int | None:
    """Read the length of the whole file off a refusal: ``bytes */1234``."""
    found = re.search(r"/(\d+)$", content_range or "")
    return _number(found[1]) if found else None


def _number(text: str | None) -> int | None:
    """Read a number of bytes that a server gives; None of what cannot be one."""
    return int(text) if text is not None and text.strip().isdecimal() and len(text) < 19 else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bar(part: Path, start: int, total: int | None, progress: bool) -> Any:
    return tqdm(
        desc=part.name.removesuffix(PART),
        initial=start,
        total=total,
        unit="B",
        unit_scale=True,
        disable=not progress,
    )
