"""Rows of scalars for TensorBoard's event files, encoded by the writer's thread, many at once.

TensorBoard makes a protocol buffer of each scalar, wakes a thread for each event, and takes its checksum in Python, a
byte at a time. Here a row waits as its numbers; the thread is woken for 64 of them, or after a second, and writes them
into bytes that are kept for the tags. What else is written passes through, behind the rows that wait, and every flush
writes these first: the files hold the same events, and no later than before, since TensorBoard flushes them every two
minutes.

Relies on ``EventFileWriter._async_writer`` with ``_writer``, ``write`` and ``_worker._record_writer``; where these are
missing, rows are added one by one. The format is that of `TFRecord
<https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>`_ and of ``event.proto``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter

from mtl_lightning.core.update.crc32c import Bytes, masked

_ROWS, _SECONDS = 64, 1.0  # that wait at most before the thread is woken
_WAKE = object()  # what the thread is given then


class Row(NamedTuple):
    """Scalars of one step that wait to be written."""

    tags: tuple[str, ...]
    values: Sequence[float]
    step: int
    wall_time: float


def add_row(writer: FileWriter, tags: tuple[str, ...], values: Sequence[float], step: int) -> None:
    """Add scalars, a value for each tag, as one event of a step from 0."""
    inner: Any = getattr(writer.event_writer, "_async_writer", None)
    worker: Any = getattr(inner, "_worker", None)
    records: Any = getattr(worker, "_record_writer", None)
    if type(records) is RecordWriter and getattr(inner, "_writer", None) is records:
        records = inner._writer = worker._record_writer = RowWriter(records)
    if not isinstance(records, RowWriter):
        pairs = zip(tags, values, strict=True)
        writer.add_summary(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in pairs]), step)
    elif records.add(Row(tags, values, step, time.time())):
        inner.write(_WAKE)


class RowWriter:
    """TensorBoard's writer of records, which writes rows, too.

    Args:
        records: what it stands before.
    """

    def __init__(self, records: Any) -> None:
        self._records = records
        self._waiting: deque[Row] = deque()
        self._woken = 0.0
        self._lock = threading.Lock()

    def add(self, row: Row) -> bool:
        """Let a row wait; return whether the thread is to be woken."""
        self._waiting.append(row)
        if len(self._waiting) < _ROWS and row.wall_time - self._woken < _SECONDS:
            return False
        self._woken = row.wall_time
        return True

    def write(self, data: Any) -> None:
        """Write the rows that wait, then an encoded event; in the writer's thread."""
        with self._lock:
            self._write_waiting()
            if data is not _WAKE:
                self._records.write(data)

    def flush(self) -> None:
        """Write the rows that wait, and flush the file."""
        with self._lock:
            self._write_waiting()
            self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self.flush()
        self._records.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return bool(self._records.closed)

    def _write_waiting(self) -> None:
        rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
        for (tags, size), alike in groupby(rows, lambda row: (row.tags, len(_varint(row.step)))):
            self._records._writer.write(_encoded([*alike], _template(tags, size)).tobytes())


class Template(NamedTuple):
    """A record without its numbers.

    Attributes:
        record: its bytes (L,), those of numbers are 0.
        values: the places of the values' bytes (N, 4).
        step: the bytes of the step.
    """

    record: Bytes
    values: np.ndarray[Any, np.dtype[np.intp]]
    step: slice


@lru_cache(maxsize=64)
def _template(tags: tuple[str, ...], step_size: int) -> Template:
    """Return the record of an event: of tags, whose step takes so many bytes."""
    scalars = []
    for tag in tags:  # Summary.Value: 1 is the tag, 2 the value, which comes last
        name = tag.encode()
        value = b"\x0a" + _varint(len(name)) + name + b"\x15" + bytes(4)
        scalars.append(b"\x0a" + _varint(len(value)) + value)
    summary = b"".join(scalars)
    before = b"\x09" + bytes(8) + b"\x10" + bytes(step_size) + b"\x2a" + _varint(len(summary))  # Event: 1, 2, 5
    header = _header(len(before) + len(summary))
    ends = len(header) + len(before) + np.cumsum([len(scalar) for scalar in scalars], dtype=np.intp)
    record = np.frombuffer(header + before + summary + bytes(4), np.uint8)
    return Template(record, ends[:, None] + np.arange(-4, 0), slice(_STEP, _STEP + step_size))


@lru_cache(maxsize=256)
def _header(length: int) -> bytes:
    """Return what stands before so many bytes: their number, and its checksum."""
    number = np.frombuffer(length.to_bytes(8, "little"), np.uint8)
    return number.tobytes() + masked(number[None]).astype("<u4").tobytes()


_TIME, _STEP = slice(13, 21), 22  # behind the header of 12 bytes and the byte that says which entry follows


def _encoded(rows: Sequence[Row], template: Template) -> Bytes:
    """Return the records (N, L) of rows."""
    records = np.tile(template.record, (len(rows), 1))
    records[:, _TIME] = np.array([[row.wall_time] for row in rows], "<f8").view(np.uint8)
    records[:, template.step] = [list(_varint(row.step)) for row in rows]
    with np.errstate(over="ignore"):  # beyond float32 lies infinity
        values = np.array([row.values for row in rows], "<f4")
    records[:, template.values] = values.view(np.uint8).reshape(*values.shape, 4)
    records[:, -4:] = masked(records[:, 12:-4]).astype("<u4")[:, None].view(np.uint8)
    return records


def _varint(number: int) -> bytes:
    """Return a number from 0 in base 128, the least part first; all but the last byte have their highest bit set."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
