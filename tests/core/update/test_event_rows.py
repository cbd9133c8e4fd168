"""Rows in event files, read back by TensorBoard, beside the same rows as protocol buffers."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import FileWriter

from mtl_lightning.core.update import event_rows
from mtl_lightning.core.update.crc32c import crc32c, masked
from mtl_lightning.core.update.event_rows import add_row
from tests.helpers import fit, make_batches, make_module

ROWS: list[tuple[tuple[str, ...], list[float], int]] = [
    (("train/loss", "train/loss/wörter", "a" * 200), [0.0, -1.5, 1 / 3], 0),
    (("train/loss", "train/loss/wörter", "a" * 200), [math.inf, math.nan, 1e300], 1),
    (("train/loss",), [1.0], 127),
    (("train/loss",), [2.0], 128),
    (("train/loss",), [1e-45], 1 << 21),
    (tuple(f"train/lr/{index}" for index in range(1000)), [index / 7 for index in range(1000)], 1 << 40),
]


def read(folder: Path) -> list[Event]:
    """All events but the first, which names the version, each with its checksum compared."""
    (file,) = folder.iterdir()
    return [Event.FromString(event) for event in RawEventFileLoader(str(file)).Load()][1:]


def added_one_by_one(writer: FileWriter, tags: tuple[str, ...], values: list[float], step: int) -> None:
    pairs = zip(tags, values, strict=True)
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in pairs]), step)


def without_time(events: list[Event]) -> list[bytes]:
    for event in events:
        event.wall_time = 0
    return [event.SerializeToString(deterministic=True) for event in events]


def test_checksums_are_those_of_the_standard_and_of_tensorboard() -> None:
    text = np.frombuffer(b"123456789", np.uint8)
    assert crc32c(text[None]).tolist() == [0xE3069283]
    draw = np.random.default_rng(0)
    for length in (4, 5, 31, 32, 33, 64, 65, 129, 5000):
        rows = draw.integers(0, 256, (3, length), dtype=np.uint8)
        assert masked(rows).tolist() == [masked_crc32c(row.tobytes()) for row in rows]


def test_rows_are_read_back_as_those_that_tensorboard_encodes(tmp_path: Path) -> None:
    ours, theirs = FileWriter(str(tmp_path / "ours")), FileWriter(str(tmp_path / "theirs"))
    before = time.time()
    for row in ROWS:
        add_row(ours, *row)
        added_one_by_one(theirs, *row)
    for writer in (ours, theirs):
        writer.close()
    found = read(tmp_path / "ours")
    assert all(before <= event.wall_time <= time.time() for event in found)
    assert without_time(found) == without_time(read(tmp_path / "theirs"))


def test_other_events_stand_behind_the_rows_that_waited_and_a_flush_writes_all(tmp_path: Path) -> None:
    writer = FileWriter(str(tmp_path))
    for step in range(200):
        add_row(writer, ("a", "b"), [step, -step], step)
        if step == 99:
            added_one_by_one(writer, ("c",), [1.0], 99)
    writer.flush()
    tags = [[value.tag for value in event.summary.value] for event in read(tmp_path)]
    assert (len(tags), tags.count(["a", "b"])) == (201, 200)
    assert tags.index(["c"]) >= 100
    assert [event.step for event in read(tmp_path) if len(event.summary.value) == 2] == [*range(200)]
    writer.close()


def test_a_row_does_not_wait_for_others_that_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[int] = []
    monkeypatch.setattr(event_rows, "_SECONDS", 0.0)
    writer = FileWriter(str(tmp_path))
    add_row(writer, ("a",), [0.0], 0)
    inner = writer.event_writer._async_writer
    write = inner.write

    def noted(data: Any) -> None:
        woken.append(1)
        write(data)

    inner.write = noted
    add_row(writer, ("a",), [1.0], 1)
    assert woken
    writer.close()
    assert len(read(tmp_path)) == 2


def test_a_writer_of_another_make_is_given_the_rows_one_by_one(tmp_path: Path) -> None:
    class Other:
        def __init__(self, writer: Any) -> None:
            self.add_event, self.close = writer.add_event, writer.close

    writer: Any = FileWriter(str(tmp_path))
    writer.event_writer = Other(writer.event_writer)
    for row in ROWS[:3]:
        add_row(writer, *row)
    writer.close()
    assert [event.step for event in read(tmp_path)] == [0, 1, 127]


class Failing(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 3:
            raise InterruptedError


def test_what_a_failed_run_recorded_is_in_its_file(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(InterruptedError):
        fit(make_module(), make_batches(5), logger=logger, log_every_n_steps=1, callbacks=[Failing()])
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = [Event.FromString(event) for event in RawEventFileLoader(str(file)).Load()]
    rows = [event for event in events if any(value.tag == "train/loss" for value in event.summary.value)]
    assert [event.step for event in rows] == [0, 1, 2]
