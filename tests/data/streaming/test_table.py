from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from jsonargparse import ArgumentParser

from mtl_lightning.data import MultiTaskDataModule, TableData
from mtl_lightning.data.streaming.source import ParquetSource
from mtl_lightning.data.streaming.table import Streaming
from mtl_lightning.data.table.split import TableSplit
from mtl_lightning.describe import describe
from mtl_lightning.types import ConfigurationError, DataError
from tests import programs
from tests.contracts import test_data as contract
from tests.data.streaming.runs import ROWS, EveryThirdCheckpoint, make_data, predicted, run, validated, write
from tests.helpers import assert_same

PROMISES: list[Callable[..., None]] = [
    function
    for name, function in vars(contract).items()
    if name.startswith("test_") and "make" in inspect.signature(function).parameters
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "table")
    return tmp_path


def training_rows(data: TableData) -> list[float]:
    return sorted(row for batch in data.train_dataloader() for row in batch["targets"]["row"].tolist())


# ------------------------------------------------------------------------------------------------------- one datamodule
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: str(promise.__name__))
def test_a_streamed_table_keeps_the_contract(promise: Callable[..., None], folder: Path) -> None:
    make = partial(make_data, folder, split=TableSplit(fractions=(0.6, 0.2, 0.2)))
    arguments = {"make": make, "tmp_path": folder}
    promise(**{name: arguments[name] for name in inspect.signature(promise).parameters})


def test_the_schema_and_the_rows_are_those_of_the_table_in_memory(folder: Path) -> None:
    streamed, held = make_data(folder), make_data(folder, stream=False)
    assert {**streamed.schema, "numeric": None, "targets": None} == {**held.schema, "numeric": None, "targets": None}
    for kind in ("mean", "std"):
        assert streamed.schema["numeric"]["x"][kind] == pytest.approx(held.schema["numeric"]["x"][kind], rel=1e-12)
    assert training_rows(streamed) == training_rows(held)
    assert streamed.tasks["row"].target_scale == pytest.approx(held.tasks["row"].target_scale, rel=1e-6)
    for one, other in zip(streamed.val_dataloader(), held.val_dataloader(), strict=True):
        assert one["targets"]["row"].tolist() == other["targets"]["row"].tolist()
        assert torch.equal(one["inputs"]["categorical"], other["inputs"]["categorical"])
        torch.testing.assert_close(one["inputs"]["numeric"], other["inputs"]["numeric"])


def test_what_is_fitted_is_fitted_on_the_training_rows_alone(folder: Path) -> None:
    data = make_data(folder, split=TableSplit(fractions=(0.5, 0.25, 0.25)))
    rows = training_rows(data)
    assert data.schema["rows"] == len(rows)
    found = pq.read_table(folder / "table").take([int(row) for row in rows]).column("x").to_numpy()
    assert data.schema["numeric"]["x"]["mean"] == pytest.approx(found.mean(), rel=1e-9)
    assert data.schema["numeric"]["x"]["std"] == pytest.approx(found.std(), rel=1e-9)


def test_splits_with_files_of_their_own_are_left_out_of_the_others(folder: Path) -> None:
    parts = {name: str(folder / "table" / f"{part}.parquet") for part, name in enumerate(("path", "test"))}
    data = make_data(folder, **parts, split=TableSplit())
    counts = [sum(len(batch["targets"]["row"]) for batch in loader) for loader in contract.loaders(data)]
    assert counts[2:] == [180, 180]
    assert sum(counts[:2]) == 120
    assert 0 < counts[1] < 40  # a ninth: test has given its share to the others


def test_what_the_first_pass_finds_is_kept_for_other_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_data(folder)
    rows = training_rows(first)
    read: list[Any] = []
    original = ParquetSource.read

    def noting(self: ParquetSource, part: Any) -> Any:
        read.append(part)
        return original(self, part)

    monkeypatch.setattr(ParquetSource, "read", noting)
    again = make_data(folder)
    assert again.schema == first.schema
    assert not read
    assert training_rows(again) == rows
    fitted = len(read)
    make_data(folder, seed=5).schema  # noqa: B018  # another seed may be another split
    assert len(read) > fitted


def test_with_a_schema_nothing_is_fitted_and_rows_need_no_targets(folder: Path) -> None:
    trained = make_data(folder)
    table = pq.read_table(folder / "table").drop_columns(["row", "kind", "fold"])
    pq.write_table(table.slice(0, 40), folder / "new.parquet")
    data = make_data(folder, predict=str(folder / "new.parquet"))
    data.restore_schema(trained.schema)
    batches = list(data.predict_dataloader())
    assert [*batches[0]] == ["inputs"]
    assert sum(len(batch["inputs"]["numeric"]) for batch in batches) == 40


def test_streaming_is_chosen_in_yaml(folder: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultiTaskDataModule, "data")
    for stream, options in ((True, Streaming()), ({"buffer_rows": 7}, Streaming(buffer_rows=7)), (False, None)):
        arguments = {"path": str(folder / "table"), "targets": ["row"], "stream": stream}
        config = parser.parse_object({"data": {"class_path": "mtl_lightning.data.TableData", "init_args": arguments}})
        data = parser.instantiate(config).data
        assert data.streaming == options
        assert describe(data)["init_args"]["stream"] == (stream if isinstance(stream, bool) else describe(options))


def test_a_statistic_that_no_schema_has_is_fitted_on_the_real_targets(folder: Path) -> None:
    data = make_data(folder)
    assert len(data.train_target("row")) == 2
    assert sorted(data.train_target("kind")) == sorted(make_data(folder, stream=False).train_target("kind"))


def test_errors_say_what_to_do(folder: Path) -> None:
    (folder / "rows.csv").write_text("row,x\n1,2\n")
    with pytest.raises(ConfigurationError, match=r"expected Parquet files to stream.*write_dataset"):
        make_data(folder, path=str(folder / "rows.csv")).schema  # noqa: B018
    with pytest.raises(DataError, match=r"expected rows in the split 'test' of .*, found none"):
        make_data(folder).test_dataloader()
    broken = folder / "table" / "1.parquet"
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"1\.parquet: expected a Parquet file, found one that cannot be read"):
        make_data(folder).schema  # noqa: B018


# ------------------------------------------------------------------------------------------------------- with a Trainer
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(folder: Path, workers: int) -> None:
    whole = run(folder, make_data(folder), EveryThirdCheckpoint(folder / "saved"))
    steps_of_epoch = whole["steps"] // 2
    assert whole["steps"] == 2 * steps_of_epoch == 30
    trained = whole["rows"]
    assert len({*trained}) == len(trained) // 2 == 232  # every row once an epoch
    assert trained[:232] != trained[232:]
    for step in (3, 15, 21) if workers == 0 else (9,):
        checkpoint = str(folder / f"saved/step={step}.ckpt")
        resumed = run(folder, make_data(folder, num_workers=workers), ckpt_path=checkpoint)
        done = step * 16 - (8 if step >= steps_of_epoch else 0)  # an epoch's last batch has 8 rows
        assert resumed["rows"] == trained[done:], step
        assert_same(resumed["weights"], whole["weights"])


def test_overfitting_keeps_the_same_first_batches(folder: Path) -> None:
    seen = run(folder, make_data(folder), overfit_batches=2)["rows"]
    assert len(seen) == 64
    assert seen[:32] == seen[32:] == sorted(seen[:32])


# ---------------------------------------------------------------------------------------------------- on two processes
@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs that two processes have made; one launch."""
    folder = tmp_path_factory.mktemp("two")
    write(folder / "table")
    programs.run("tests.data.streaming.runs", str(folder), world=2)
    return folder


@pytest.fixture
def ended(two: Path) -> list[dict[str, Any]]:
    """What each of the two processes ended with."""
    return [torch.load(two / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_train_on_every_row_once_an_epoch(ended: list[dict[str, Any]]) -> None:
    first, second = (of_rank["trained"] for of_rank in ended)
    assert first["steps"] == second["steps"] == 2 * 8
    assert_same(first["weights"], second["weights"])
    wanted = [row for row in range(ROWS) if row % 10 < 7]
    for epoch in range(2):
        rows = [row for rank in (first, second) for row in rank["rows"][116 * epoch : 116 * (epoch + 1)]]
        assert sorted(rows) == wanted


def test_two_processes_measure_what_one_does(two: Path, ended: list[dict[str, Any]]) -> None:
    alone = validated(two, make_data(two))
    for of_rank in ended:
        assert of_rank["validated"] == pytest.approx(alone, rel=1e-5)


def test_two_processes_resume_in_the_middle_of_an_epoch(ended: list[dict[str, Any]]) -> None:
    for of_rank in ended:
        assert of_rank["resumed"]["rows"] == of_rank["trained"]["rows"][6 * 16 :]
        assert_same(of_rank["resumed"]["weights"], of_rank["trained"]["weights"])


def test_predictions_of_two_processes_are_in_the_order_of_the_files(two: Path, folder: Path) -> None:
    alone = pq.read_table(predicted(folder, make_data(two, predict=str(two / "table"))))
    together = pq.read_table(two / "predictions.parquet")
    assert together.num_rows == alone.num_rows == ROWS
    torch.testing.assert_close(torch.tensor(together["row"].to_numpy()), torch.tensor(alone["row"].to_numpy()))
    assert together["kind"].to_pylist() == alone["kind"].to_pylist()
    assert {*together["kind"].to_pylist()} <= {"a", "b", "c"}
    source = pq.read_table(two / "table")
    for name in ("x", "place"):  # carried through, from all files in their order
        assert together[name].to_pylist() == alone[name].to_pylist() == source[name].to_pylist()
    assert together.schema.names[:2] == ["x", "place"]
    for table in (alone, together):
        assert json.loads(table.schema.metadata[b"mtl_lightning"])["unlike_training"]["columns"] == []
