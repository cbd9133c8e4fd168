"""Predictions of a table as answers: class names, intervals, and columns of the rows that are carried along."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import torch

from mtl_lightning import MultiTaskModule, Predictor
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.data import TableData
from mtl_lightning.types import ConfigurationError
from tests.helpers import make_trainer

ROWS = 90
CALIBRATION: dict[str, Any] = {
    "price": {
        "method": "conformal",
        "coverage": 0.9,
        "half_width": [30.0],
        "by": "town",
        "groups": {"Ulm": [10.0], "Bonn": [20.0]},
    },
}


def table() -> Any:
    random = np.random.default_rng(0)
    town = [["Ulm", "Bonn", None][place] for place in random.integers(0, 3, ROWS)]
    return pa.table(
        {
            "user": [f"{place:03}" for place in range(ROWS)],
            "area": random.uniform(50, 150, ROWS),
            "town": pa.array(town, pa.string()),
            "price": random.uniform(1e5, 3e5, ROWS),
            "sold": random.choice(["no", "yes"], ROWS),
            "floor": random.integers(0, 2, ROWS),
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultiTaskModule, TableData]:
    folder = tmp_path_factory.mktemp("town")
    pc.write_csv(table(), folder / "rows.csv")
    data = data_of(folder)
    torch.manual_seed(0)
    module = MultiTaskModule(data.tasks, partial(SharedBottom, encoder=TabularEncoder), data.input_spec)
    return folder, module, data


def data_of(folder: Path, **options: Any) -> TableData:
    path = str(folder / "rows.csv")
    return TableData(path=path, targets=["price", "sold", "floor"], ignore=["user"], batch_size=8, **options)


def predicted(made: tuple[Path, MultiTaskModule, TableData], data: TableData | None = None, **options: Any) -> Any:
    folder, module, own = made
    limits = options.pop("limits", {})
    writer = PredictionWriter(folder / "out.parquet", **options)
    trainer = make_trainer(callbacks=[writer], precision="32-true", **limits)
    trainer.predict(module, data or own, return_predictions=False)
    assert sorted(path.name for path in folder.iterdir()) == ["out.parquet", "rows.csv"]
    return pq.read_table(folder / "out.parquet")


def test_classes_have_their_names_unless_codes_are_asked_for(made: tuple[Path, MultiTaskModule, TableData]) -> None:
    named, codes = predicted(made), predicted(made, codes=True)
    assert [str(named.schema.field(name).type) for name in ("sold", "floor")] == [
        "string",
        "int64",
    ]  # go by so
    assert named["sold"].to_pylist() == [["no", "yes"][code] for code in codes["sold"].to_pylist()]
    assert named["sold.probability"].equals(codes["sold.probability"])


def test_the_rows_of_a_split_keep_their_columns(made: tuple[Path, MultiTaskModule, TableData]) -> None:
    found = predicted(made, keep=["user", "town"])
    whole = {row["user"]: row for row in table().to_pylist()}
    rows = [whole[user] for user in found["user"].to_pylist()]
    assert 0 < len(rows) < ROWS  # the test split
    assert found["town"].to_pylist() == [row["town"] or "" for row in rows]  # as it stands in a text file
    source = made[2].predicted
    assert source is not None
    answers = Predictor(made[1])(next(source.tables(["area", "town"])))
    np.testing.assert_allclose(found["price"].to_numpy(), answers["price"]["value"], rtol=1e-5)
    short = predicted(made, keep=["user"], limits={"limit_predict_batches": 1})
    assert short["user"].to_pylist() == found["user"].to_pylist()[: short.num_rows]


def test_two_processes_keep_what_one_does(made: tuple[Path, MultiTaskModule, TableData]) -> None:
    alone = predicted(made, keep=["user"])
    together = predicted(made, keep=["user"], limits={"devices": 2, "strategy": "ddp_fork"})
    assert together["user"].to_pylist() == alone["user"].to_pylist()
    assert together["sold"].to_pylist() == alone["sold"].to_pylist()
    assert together.schema.equals(alone.schema, check_metadata=True)
    np.testing.assert_allclose(together["price"].to_numpy(), alone["price"].to_numpy(), rtol=1e-5)


def test_intervals_go_by_the_rows_of_their_group(made: tuple[Path, MultiTaskModule, TableData]) -> None:
    folder, module, _ = made
    width = {"Ulm": 10.0, "Bonn": 20.0, "": 30.0}
    module.calibration = CALIBRATION
    try:
        everything = data_of(folder, predict=str(folder / "rows.csv"))
        everything.restore_schema(made[2].schema)
        found = predicted(made, everything, keep=["town"])
        module.calibration = {"price": {**CALIBRATION["price"], "by": None, "groups": None}}
        alike = predicted(made, everything)
    finally:
        module.calibration = None
    assert found.schema.names[:4] == ["town", "price", "price.low", "price.high"]
    half = (found["price.high"].to_numpy() - found["price.low"].to_numpy()) / 2
    np.testing.assert_allclose(half, [width[town] for town in found["town"].to_pylist()], rtol=0.01)
    np.testing.assert_allclose(alike["price.high"].to_numpy() - alike["price"].to_numpy(), 30, rtol=0.01)


def test_what_training_never_saw_is_in_the_metadata(made: tuple[Path, MultiTaskModule, TableData]) -> None:
    folder, _, data = made
    strange = table().set_column(2, "town", pa.array(["Rome"] * ROWS))
    other = folder / "rows.parquet"
    pq.write_table(strange, other)
    try:
        everything = data_of(folder, predict=str(other))
        everything.restore_schema(data.schema)
        everything.setup("predict")
        writer = PredictionWriter(folder / "out.parquet", keep=["user"])
        trainer = make_trainer(callbacks=[writer], precision="32-true")
        trainer.predict(made[1], everything, return_predictions=False)
    finally:
        other.unlink()
    found = pq.read_table(folder / "out.parquet")
    told = json.loads(found.schema.metadata[b"mtl_lightning"])["unlike_training"]
    assert (told["rows"], told["columns"][0]["column"], told["columns"][0]["cells"]) == (ROWS, "town", ROWS)
    assert found["user"].to_pylist() == table()["user"].to_pylist()


@pytest.mark.parametrize(
    ("keep", "message"),
    [(["usr"], "Did you mean 'user'"), (["price"], "columns that are not called as a task, found .'price'.")],
)
def test_columns_that_cannot_be_kept_are_refused(
    made: tuple[Path, MultiTaskModule, TableData], keep: list[str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        predicted(made, keep=keep)


def test_rows_without_columns_are_refused(tmp_path: Path) -> None:
    from tests.helpers import TinyData, make_module

    writer = PredictionWriter(tmp_path / "out.parquet", keep=["user"])
    with pytest.raises(ConfigurationError, match=r"expected a TableData.*to `keep`, found TinyData"):
        make_trainer(callbacks=[writer]).predict(make_module(), TinyData(), return_predictions=False)
