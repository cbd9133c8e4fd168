"""What ends a run, in one message of a few lines: ours as they are, those of other libraries with where they arose."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from mtl_lightning.cli import messages
from mtl_lightning.names import did_you_mean
from mtl_lightning.types import MtlLightningError

TRACEBACK = "MTL_LIGHTNING_TRACEBACK"
"""An environment variable: set to anything, errors keep their tracebacks."""

_LINES, _LONGEST = 4, 600
_PROCESS = re.compile(r"(?:Caught \w+ in DataLoader worker process|-- Process) (\d+)")
_LAST = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): (.*)", re.M | re.S)
_MONITOR = re.compile(r"(?:metric `|monitor=')([^`']+)[`'].*?(?:following: |returned metrics: )\[?([^\]]*)", re.S)
_MEMORY = re.compile(r"tried to allocate (\d+) bytes")
_PEER = re.compile(r"Connection (?:closed|reset) by peer|remote process exited")
_FILE = re.compile(r'^  File "([^"]+)", line (\d+)', re.M)
_ROOM = "Free some space, or write elsewhere: `trainer.default_root_dir` is where logs and checkpoints go."
_RIGHTS = "Write elsewhere, or make it writable: `trainer.default_root_dir` is where logs and checkpoints go."
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR), _RIGHTS),
}
_HERE = str(Path(__file__).parent.parent)


def sentence(error: BaseException) -> str:
    """Return what to tell of an error in at most six lines."""
    own = next((cause for cause in _causes(error) if isinstance(cause, MtlLightningError)), None)
    if own is not None:
        return _cut(f"{type(own).__name__}: {own}")
    first = next(cause for cause in _causes(error) if cause.__cause__ is None)
    if isinstance(first, OSError) and first.errno is not None:
        where = f"{first.filename}: " if first.filename is not None else ""
        remedy = _REMEDIES.get(first.errno, "")
        return _cut(
            f"{type(first).__name__}: {where}{first.strerror}. {remedy}".strip(), "" if where else _place(first)
        )
    if "\nErrors:\n" in str(error):  # of the parser, which finds some mistakes only when it makes things
        return _cut(f"ConfigurationError: {messages.sentence(str(error), ())}")
    name, text, process = _original(error)
    if found := _MEMORY.search(text):
        size = int(found[1]) / 1e9
        return _cut(
            f"MemoryError: expected sizes that fit in memory, found one that takes {size:,.1f} GB.", _place(error)
        )
    if _PEER.search(text):
        return (
            "RuntimeError: another process has ended, so that this one cannot go on: what that one says is the reason."
        )
    if found := _MONITOR.search(text):
        known = re.findall(r"[\w/.-]+", found[2])
        return _cut(
            f"ConfigurationError: `monitor`: expected a metric that is logged, found {found[1]!r}."
            f"{did_you_mean(found[1], known)}\nLogged are {', '.join(known)}."
        )
    return _cut(f"{name}{process}: {text or 'without a message'}", _place(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    while error is not None:
        yield error
        if error.__cause__ is None:
            return
        error = error.__cause__


def _original(error: BaseException) -> tuple[str, str, str]:
    """Return the name and message of an error, and where from, also of one that another process has sent as text."""
    text = str(error).strip()
    found = _PROCESS.search(text)
    if found is None:
        return type(error).__name__, text, ""
    last = list(_LAST.finditer(text[text.rfind("\n  File ") :]))
    name, said = (last[0][1].rpartition(".")[2], last[0][2]) if last else (type(error).__name__, text)
    return name, said.strip(), f" in process {found[1]}" if "-- Process" in text else f" in worker {found[1]}"


def _place(error: BaseException) -> str:
    """Say where an error arose: in the last file of the user's, else in the last of ours, and what was being made."""
    if _PROCESS.search(str(error)):
        there = [f"\nIt arose in {name}, line {line}." for name, line in _FILE.findall(str(error)) if _is_near(name)]
        return f"{''.join(there[-1:])}\nSet {TRACEBACK}=1 to see the whole way there."
    frames = [(frame, n) for frame, n in traceback.walk_tb(error.__traceback__) if _is_near(frame.f_code.co_filename)]
    users = [(frame, line) for frame, line in frames if not frame.f_code.co_filename.startswith(_HERE)]
    where = ""
    for frame, line in (users or frames)[-1:]:
        made = frame.f_locals.get("self") if frame.f_code.co_name == "__init__" else None
        making = "" if made is None else f", as {type(made).__name__} was made"
        where = f"\nIt arose in {frame.f_code.co_filename}, line {line}{making}."
    return f"{where}\nSet {TRACEBACK}=1 to see the whole way there."


def _is_near(file: str) -> bool:
    """Whether a file is the user's or ours."""
    return not ("site-packages" in file or file.startswith("<") or f"{os.sep}lib{os.sep}python" in file)


def _cut(text: str, end: str = "") -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    kept = [line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..." for line in lines[:_LINES]]
    return "\n".join(kept) + end
