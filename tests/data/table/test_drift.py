"""Rows unlike those of training: counted by column, told after a test or a prediction, warned of above a share."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.data import TableColumns, TableData, TableEncoder, TableFitter, TargetColumn
from mtl_lightning.data.table.drift import Drift
from mtl_lightning.types import ConfigurationError, MtlLightningWarning

ROWS = 200


def rows(promo: tuple[str, str] = ("yes", "no"), times: float = 1.0, gaps: float = 0.1, seed: int = 0) -> Any:
    """Rows of a shop; the training rows' kind by default."""
    random = np.random.default_rng(seed)
    price = random.uniform(10, 20, ROWS) * times
    price[0], price[1] = 10 * times, 20 * times
    return pa.table(
        {
            "promo": random.choice(promo, ROWS),
            "shop": random.choice(["north", "south"], ROWS),
            "price": price,
            "note": [None if value else 1.5 for value in np.arange(ROWS) < gaps * ROWS],
            "sold": random.integers(0, 2, ROWS),
        }
    )


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    fitter = TableFitter(TableColumns({"sold": TargetColumn(kind="classes")}, numeric=["price", "note"]))
    fitter.update(rows())
    return fitter.finish()


def found(schema: dict[str, Any], table: Any, **options: Any) -> dict[str, str]:
    drift = Drift(schema)
    TableEncoder(schema).encode(table, targets=False, drift=drift, **options)
    return {one.column: one.words for one in drift.found()}


def test_rows_like_those_of_training_are_not_strange(schema: dict[str, Any]) -> None:
    assert schema["ranges"] == {"price": [10.0, 20.0], "note": [1.5, 1.5]}
    assert found(schema, rows(seed=1)) == {}


def test_each_kind_is_counted(schema: dict[str, Any]) -> None:
    half = pa.concat_tables([rows(seed=1), rows(("true", "false"), times=100, gaps=0.5)])
    assert found(schema, half) == {
        "promo": "50 % were not met in training, such as 'false', 'true'",
        "price": "50 % are far outside of 10 .. 20, the range in training",
        "note": "30 % are missing, 10 % of the training rows",
    }


def test_a_few_missing_cells_more_are_chance(schema: dict[str, Any]) -> None:
    assert found(schema, rows(gaps=0.15)) == {}
    assert found(schema, rows(gaps=0.18)) == {"note": "18 % are missing, 10 % of the training rows"}
    assert found(schema, rows(gaps=0.0)) == {}


def test_a_number_a_little_outside_is_not_strange(schema: dict[str, Any]) -> None:
    assert found(schema, rows(times=1.04)) == {}  # up to 20.8, within a tenth of the range's width
    assert "price" in found(schema, rows(times=1.06))


def test_only_the_rows_that_are_meant_are_counted(schema: dict[str, Any]) -> None:
    both = pa.concat_tables([rows(seed=1), rows(("true", "false"))])
    assert found(schema, both, counted=np.arange(ROWS)) == {}
    assert found(schema, both, counted=np.arange(ROWS, 2 * ROWS))["promo"].startswith("100 % were not met")


def test_missing_targets_are_counted_by_column() -> None:
    def sold(gaps: float) -> Any:
        many = [None if place < gaps * ROWS else "ab"[place % 2] for place in range(ROWS)]
        cost = [None if place < gaps * ROWS else place / 7 for place in range(ROWS)]
        return rows().append_column("many", [many]).append_column("cost", [cost])

    targets = {
        "sold": TargetColumn(kind="classes"),
        "many": TargetColumn(kind="classes"),
        "cost": TargetColumn(kind="number"),
        "dear": TargetColumn(column="cost", at_least=10.0),
    }
    fitter = TableFitter(TableColumns(targets, numeric=["price", "note"]))
    fitter.update(sold(0.05))
    schema = fitter.finish()
    for gaps, expected in ((0.05, {}), (0.5, "50 % are missing, 5 % of the training rows")):
        drift = Drift(schema)
        TableEncoder(schema).encode(sold(gaps), drift=drift)
        strange = {one.column: one.words for one in drift.found()}
        assert strange == (expected and dict.fromkeys(["many", "cost"], expected))


def test_older_schemas_go_on_working(schema: dict[str, Any]) -> None:
    older = {key: value for key, value in schema.items() if key not in ("ranges", "missing")}
    assert [*found(older, rows(("true", "false"), times=100, gaps=0.5))] == ["promo"]


# ------------------------------------------------------------------------------------------------------- the datamodule
def written(folder: Path, kind: str, name: str, table: Any) -> str:
    path = folder / f"{name}.{kind}"
    if kind == "csv":
        pc.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=64)
    return str(path)


def told(
    folder: Path, new: Any, caplog: pytest.LogCaptureFixture, kind: str = "csv", **options: Any
) -> tuple[str, list[str]]:
    """Predict new rows by a schema that was fitted on others; return what was printed and what was warned of."""
    data = TableData(
        train=written(folder, kind, "train", rows()),
        val=written(folder, kind, "val", rows(seed=1)),
        predict=written(folder, kind, "new", new),
        targets={"sold": TargetColumn(kind="classes")},
        numeric=["price", "note"],
        batch_size=32,
        **options,
    )
    module = MultiTaskModule(
        tasks=data.tasks, input_spec=data.input_spec, architecture=partial(SharedBottom, encoder=TabularEncoder)
    )
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    caplog.clear()
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        trainer.predict(module, data)
        trainer.predict(module, data)  # counted anew, or told again
    printed = [record.getMessage() for record in caplog.records if "TableData: 200 rows" in record.getMessage()]
    assert len(printed) == 2
    assert printed[0] == printed[1]
    return printed[0], [str(one.message) for one in met if issubclass(one.category, MtlLightningWarning)]


STORED: list[dict[str, Any]] = [
    {},
    {"kind": "parquet", "stream": True},
    {"kind": "parquet", "stream": True, "num_workers": 2},
]


@pytest.mark.parametrize("stored", STORED, ids=str)
def test_a_prediction_tells_it(stored: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    printed, warned = told(tmp_path, rows(("true", "false"), gaps=0.2), caplog, **stored)
    assert "\n  promo: 100 % were not met in training" in printed
    assert "\n  note: 20 % are missing, 10 % of the training rows" in printed
    assert "more than 5 % unlike them in the columns ['promo', 'note']" in warned[0]


def test_nothing_is_warned_of_below_the_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    printed, warned = told(tmp_path, rows(gaps=0.3), caplog, unseen_share=0.25)
    assert "note: 30 % are missing" in printed
    assert not warned
    printed, warned = told(tmp_path, rows(seed=2), caplog)
    assert "nothing in them that training never saw" in printed
    assert not warned


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected a share from 0 to 1, or null, found 5"):
        TableData(path="x.csv", targets=["y"], unseen_share=5)
