from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mtl_lightning.data.streaming.loader import StreamLoader
from mtl_lightning.data.streaming.rows import StreamedRows
from mtl_lightning.data.streaming.source import ParquetSource
from mtl_lightning.types import Batch, ConfigurationError

GROUPS = ((7, 1, 12), (0, 5), (30,), (3, 3, 3, 3))  # rows of the row groups of each file; those of 12 and 30 are cut
ROWS = sum(map(sum, GROUPS))  # 67
BUFFER, BATCH = 10, 4
SCHEMA = pa.schema([("row", pa.int64()), ("other", pa.string())])


def encode(table: Any) -> Batch:
    rows = torch.from_numpy(table.column("row").to_numpy().astype(np.float32))
    return {"inputs": {"numeric": rows[:, None]}, "targets": {"number": rows, "parity": rows.long() % 2}}


def even(table: Any, part: Any) -> Any:
    return table.column("row").to_numpy() % 2 == 0


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Files in which the column ``row`` says where a row stands in the whole table."""
    paths, first = [], 0
    for number, groups in enumerate(GROUPS):
        paths.append(tmp_path / f"{number}.parquet")
        with pq.ParquetWriter(paths[-1], SCHEMA) as writer:
            for rows in groups:
                values = np.arange(first, first + rows)
                writer.write_table(pa.table({"row": values, "other": [f"text {v}" for v in values]}, SCHEMA))
                first += rows
    return paths


def split(files: list[Path], select: Any = None, buffer: int = BUFFER) -> StreamedRows:
    source = ParquetSource(files, columns=["row"], buffer_rows=buffer)
    counts = None if select is None else [int(select(source.read(part), part).sum()) for part in source.slices]
    return StreamedRows(source, encode, select=select, counts=counts)


def loader(rows: StreamedRows, **options: Any) -> StreamLoader:
    return StreamLoader(rows, **{"batch_size": BATCH, "shuffle": True, "seed": 3, **options})


def numbers(made: StreamLoader, epoch: int = 0) -> list[list[float]]:
    """The labels of each batch of an epoch; nan for a row that fills up."""
    made.order.set_epoch(epoch)
    return [batch["targets"]["number"].tolist() for batch in made]


def flat(batches: list[list[float]]) -> list[float]:
    return [value for batch in batches for value in batch if not math.isnan(value)]


# ------------------------------------------------------------------------------------------------------------ the order
@pytest.mark.parametrize("select", [None, even], ids=["all rows", "a split"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_together_have_every_row_once(files: list[Path], world: int, select: Any) -> None:
    rows = split(files, select)
    wanted = [row for row in range(ROWS) if select is None or row % 2 == 0]
    assert len(rows) == len(wanted)
    ranks = [numbers(loader(rows, num_replicas=world, rank=rank), epoch=2) for rank in range(world)]
    assert sorted(flat([batch for rank in ranks for batch in rank])) == wanted
    steps = math.ceil(math.ceil(len(wanted) / world) / BATCH)
    assert [len(rank) for rank in ranks] == [steps] * world
    for rank in ranks:
        assert {len(batch) for batch in rank[:-1]} == {BATCH}
        filled = [math.isnan(value) for batch in rank for value in batch]
        assert sum(filled) == math.ceil(len(wanted) / world) - len(flat(rank)) <= 1
        assert not any(filled[:-1])  # only at the end


def test_a_row_that_fills_up_has_no_label_of_any_task(files: list[Path]) -> None:
    last = list(loader(split(files), num_replicas=2, rank=0, missing={"number": -100, "parity": -7}))[-1]
    assert math.isnan(last["targets"]["number"][-1])
    assert last["targets"]["parity"][-1] == -7
    assert len(last["inputs"]["numeric"]) == 2
    assert set(last["targets"]["parity"][:-1].tolist()) <= {0, 1}


def test_a_rank_without_a_row_makes_the_others_steps(tmp_path: Path) -> None:
    pq.write_table(pa.table({"row": [0, 1]}), tmp_path / "a.parquet")
    rows = split([tmp_path / "a.parquet"])
    ranks = [numbers(loader(rows, num_replicas=3, rank=rank)) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [1, 1, 1]
    assert sorted(flat([batch for rank in ranks for batch in rank])) == [0, 1]


def test_targets_of_tasks_that_were_removed_are_left_out(files: list[Path]) -> None:
    batch = next(iter(loader(split(files), missing={"parity": -100})))
    assert {*batch["targets"]} == {"parity"}


def test_the_order_is_a_function_of_seed_and_epoch(files: list[Path]) -> None:
    rows = split(files)
    orders = {(seed, epoch): flat(numbers(loader(rows, seed=seed), epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    lasting = loader(rows, seed=1)
    assert [flat(numbers(lasting, epoch)) for epoch in (1, 0)] == [orders[1, 1], orders[1, 0]]
    assert flat(numbers(loader(rows, shuffle=False))) == list(range(ROWS))


def test_rows_of_several_row_groups_are_mixed(files: list[Path]) -> None:
    order = flat(numbers(loader(split(files, buffer=1000))))
    apart = [abs(a - b) for a, b in pairwise(order)]
    assert np.mean(apart) > ROWS / 6  # a third of the rows for a random order


def test_batches_do_not_depend_on_the_workers(files: list[Path]) -> None:
    alone = loader(split(files))
    several = loader(split(files), num_workers=2, persistent_workers=True)
    for epoch in range(2):
        assert numbers(several, epoch) == numbers(alone, epoch)
    assert numbers(loader(split(files), num_workers=1), 1) == numbers(alone, 1)


def test_predict_shares_the_rows_out_in_turn(files: list[Path]) -> None:
    for select, step in ((None, 1), (even, 2)):
        wanted = list(range(0, ROWS, step))
        for world in (1, 2, 3):
            for rank in range(world):
                made = loader(split(files, select), shuffle=False, pad=False, num_replicas=world, rank=rank)
                found = numbers(made)
                assert flat(found) == wanted[rank::world]
                assert len(made) == len(found)


def test_an_empty_split_has_no_batches(files: list[Path]) -> None:
    source = ParquetSource(files, columns=["row"], buffer_rows=BUFFER)
    nothing = StreamedRows(source, encode, select=even, counts=[0] * len(source.slices))
    assert len(nothing) == len(loader(nothing)) == 0
    assert numbers(loader(nothing, num_replicas=2, rank=1)) == []


# ----------------------------------------------------------------------------------------------------------- the resume
@pytest.mark.parametrize(("world", "rank"), [(1, 0), (2, 0)])
def test_an_epoch_is_continued_from_any_batch(files: list[Path], world: int, rank: int) -> None:
    place = {"num_replicas": world, "rank": rank}
    whole = numbers(loader(split(files), **place), epoch=1)
    for taken in range(1, len(whole)):
        begun = loader(split(files), **place)
        begun.order.set_epoch(1)
        batches = iter(begun)
        for _ in range(taken):
            next(batches)
        assert begun.state_dict()["batches"] == taken
        resumed = loader(split(files), **place)
        resumed.load_state_dict(begun.state_dict())
        rest = [batch["targets"]["number"].tolist() for batch in resumed]
        assert str(rest) == str(whole[taken:])  # nan is nan
        assert len(resumed) == len(whole)


def test_a_resume_reads_the_block_of_its_next_batch_and_none_before(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = loader(split(files))
    batches = iter(begun)
    for _ in range(12):
        next(batches)
    resumed = loader(split(files))
    resumed.load_state_dict(begun.state_dict())
    read: list[Any] = []
    original = ParquetSource.read

    def noting(self: ParquetSource, part: Any) -> Any:
        read.append(part)
        return original(self, part)

    monkeypatch.setattr(ParquetSource, "read", noting)
    next(iter(resumed))
    assert 0 < sum(part.rows for part in read) <= 2 * BUFFER  # a batch lies in two blocks at most


def test_an_epoch_is_continued_by_as_many_processes(files: list[Path]) -> None:
    begun = loader(split(files))
    next(iter(begun))
    other = loader(split(files, buffer=11), num_replicas=2, rank=0)
    other.load_state_dict(begun.state_dict())
    with pytest.raises(ConfigurationError, match="processes 2 instead of 1, buffer_rows 11 instead of 10"):
        next(iter(other))


def test_batches_do_not_keep_their_block(files: list[Path]) -> None:
    batch = next(iter(loader(split(files))))
    column = batch["inputs"]["numeric"]
    assert column.untyped_storage().nbytes() == column.nbytes
