"""What travels along with rows under ``ids``: through loaders, updates, predictions and files, each with its row."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.data import PerTaskData, Split, Streaming, TableData, TargetColumn, TensorRows
from mtl_lightning.data.loader import ResumableLoader
from mtl_lightning.types import ConfigurationError
from tests.helpers import TinyData, loader_of, make_batches, make_module, make_rows, make_trainer

ROWS = 13


def name_of(inputs: Any) -> list[str]:
    """The name that a row has in these tests: its first input."""
    return [f"{value:.6f}" for value in inputs[:, 0].tolist()]


def with_ids(rows: int = ROWS) -> TensorRows:
    inputs, targets = make_rows(rows)
    ids = {"name": name_of(inputs), "place": np.arange(rows), "first": inputs[:, 0]}
    return TensorRows(inputs, targets, ids=ids)


class NamedData(TinyData):
    """The tiny problem, whose rows have names."""

    def rows(self, split: Split) -> TensorRows:
        return with_ids()


# ------------------------------------------------------------------------------------------------------------- loaders
@pytest.mark.parametrize("options", [{"shuffle": True}, {"num_replicas": 2, "rank": 1}, {"num_workers": 1}])
def test_ids_go_with_their_rows_in_whatever_order(options: dict[str, Any]) -> None:
    for batch in ResumableLoader(with_ids(), batch_size=4, **options):
        ids = batch["ids"]
        labelled = ~batch["targets"]["number"].isnan()
        names = [name for name, known in zip(ids["name"], labelled.tolist(), strict=True) if known]
        assert names == name_of(batch["inputs"][labelled])
        torch.testing.assert_close(ids["first"], batch["inputs"][:, 0])
        assert isinstance(ids["place"], np.ndarray)
    assert with_ids()[3]["ids"]["place"] == 3
    with pytest.raises(ConfigurationError, match=r"same number of rows, found .*'ids.a': 2"):
        TensorRows(torch.zeros(3, 4), {"y": torch.zeros(3)}, ids={"a": ["x", "y"]})
    with pytest.raises(ConfigurationError, match=r"`ids`: expected a tensor.*found int"):
        TensorRows(torch.zeros(3, 4), {"y": torch.zeros(3)}, ids=3)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose feature is told by its row's id, and back."""
    folder, random = tmp_path_factory.mktemp("ids"), np.random.default_rng(0)
    x = random.permutation(60) / 8
    ids = [None if index == 7 else f"0{round(value * 8)}" for index, value in enumerate(x)]
    made = pa.table({"user": ids, "n": pa.array(x * 8).cast(pa.int64()), "x": x, "y": x + random.normal(size=60)})
    pyarrow.csv.write_csv(made, folder / "t.csv")
    pq.write_table(made, folder / "t.parquet", row_group_size=9)
    return folder


WAYS: dict[str, dict[str, Any]] = {
    "t.csv": {},
    "t.parquet": {},
    "stream": {"stream": Streaming(buffer_rows=12)},
    "workers": {"stream": Streaming(buffer_rows=12), "num_workers": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_columns_of_a_table_travel_along_as_they_stand(way: str, table: Path) -> None:
    name = way if way in ("t.csv", "t.parquet") else "t.parquet"
    data = TableData(
        train=str(table / name),
        test=str(table / name),
        targets={"y": TargetColumn(kind="number")},
        ids=["user", "n"],
        batch_size=8,
        **WAYS[way],
    )
    assert data.schema["ignored"] == {"user": "travels along", "n": "travels along"}
    known = data.schema["numeric"]["x"]
    for loader in (data.train_dataloader(), data.predict_dataloader()):
        met = []
        for batch in loader:
            x = (batch["inputs"]["numeric"][:, 0].double() * known["std"] + known["mean"]) * 8
            numbers = [str(round(value)) for value in x.tolist()]
            assert batch["ids"]["n"].tolist() == numbers
            missing = int((batch["ids"]["user"] == "").sum())
            met += [user for user, n in zip(batch["ids"]["user"], numbers, strict=True) if user in ("", f"0{n}")]
            assert missing <= 1
        assert len(met) == len(set(met)) == 60


# ------------------------------------------------------------------------------------------------------------ training
def test_a_fit_is_the_same_with_ids_and_without() -> None:
    batches = make_batches(6)
    named = [{**batch, "ids": name_of(batch["inputs"])} for batch in batches]
    weights = []
    for rows in (batches, named):
        module = make_module()
        loader: Any = loader_of(rows)
        make_trainer(max_epochs=1, accumulate_grad_batches=3).fit(module, loader, loader)
        weights.append(module.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_window_that_waits_keeps_no_ids() -> None:
    module = make_module()
    batch: Any = {**make_batches(1)[0], "ids": [object()] * 8}
    module.accumulation.add([batch], complete=False)
    assert "ids" not in module.accumulation.batches[0]
    assert "ids" in batch


# ---------------------------------------------------------------------------------------------------------- prediction
def test_ids_come_out_beside_the_predictions() -> None:
    inputs, _ = make_rows(8)
    rows: Any = [{"inputs": row, "ids": name} for row, name in zip(inputs, name_of(inputs), strict=True)]
    found: Any = make_trainer().predict(make_module(), DataLoader(rows, batch_size=3))
    assert [name for batch in found for name in batch["ids"]] == name_of(inputs)
    data = PerTaskData({"a": NamedData(), "b": NamedData()})
    both: Any = make_trainer().predict(make_module(tasks=data.tasks), data)
    assert [name for batch in both[0] for name in batch["ids"]["name"]] == name_of(make_rows(ROWS)[0])
    called_so = make_module(tasks={"ids": make_module().tasks["number"]})
    with pytest.raises(ConfigurationError, match="expected no task of this name"):
        make_trainer().predict(called_so, DataLoader(rows, batch_size=3))


def test_a_file_of_predictions_has_them_from_one_process_and_from_two(tmp_path: Path) -> None:
    data, module = NamedData(batch_size=2), make_module()
    for name, options in {"one": {}, "two": {"devices": 2, "strategy": "ddp_fork"}}.items():
        writer = PredictionWriter(tmp_path / f"{name}.parquet")
        make_trainer(callbacks=[writer], **options).predict(module, data, return_predictions=False)
    one, two = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.column_names[:4] == ["name", "place", "first", "number"]
    assert one["name"].to_pylist() == two["name"].to_pylist() == name_of(make_rows(ROWS)[0])
    assert one["place"].to_pylist() == two["place"].to_pylist() == list(range(ROWS))
    np.testing.assert_allclose(one["number"], two["number"])
    expected = module.predict(make_rows(ROWS)[0])["number"]
    np.testing.assert_allclose(one["number"], expected, rtol=1e-6)


def test_columns_that_are_taken_are_refused(tmp_path: Path) -> None:
    inputs, _ = make_rows(4)
    batch: Any = {"inputs": inputs, "ids": {"number": [1, 2, 3, 4]}}
    trainer = make_trainer(callbacks=[PredictionWriter(tmp_path / "out.parquet")])
    with pytest.raises(ConfigurationError, match=r"`ids`, 'number'.*found a column 'number' already"):
        trainer.predict(make_module(), loader_of([batch]), return_predictions=False)


def test_a_table_is_predicted_with_the_names_of_its_rows(table: Path, tmp_path: Path) -> None:
    data = TableData(train=str(table / "t.csv"), predict=str(table / "t.csv"), targets=["y"], ids=["user"])
    network = partial(SharedBottom, encoder=partial(TabularEncoder, hidden=[4]))
    module = make_module(tasks=data.tasks, input_spec=data.input_spec, architecture=network)
    writer = PredictionWriter(tmp_path / "out.parquet", keep=["n"])
    make_trainer(callbacks=[writer], precision="32-true").predict(module, data, return_predictions=False)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names[:3] == ["n", "user", "y"]
    users, numbers = (found[name].to_pylist() for name in ("user", "n"))
    assert sum(user == "" for user in users) == 1
    assert all(user in ("", f"0{number}") for user, number in zip(users, numbers, strict=True))
