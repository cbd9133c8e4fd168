"""Predictions of real runs, read back from Parquet."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.data import MultiDigit
from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec
from tests.helpers import TinyData, fit, loader_of, make_batches, make_module, make_trainer

DIGITS = partial(MultiDigit, sizes=(10, 10, 77), sum=True, batch_size=16)


def digits() -> tuple[MultiTaskModule, MultiDigit]:
    data = DIGITS()
    options: dict[str, Any] = {"architecture": partial(SharedBottom, encoder=MLP), "balancer": UncertaintyWeighting}
    return make_module(tasks=data.tasks, input_spec=data.input_spec, **options), data


def predict(module: MultiTaskModule, data: Any, *callbacks: Any, **options: Any) -> Trainer:
    trainer = make_trainer(callbacks=[*callbacks], **{"precision": "32-true", **options})
    trainer.predict(module, data, return_predictions=False)
    return trainer


def batches_of(number: int, rows: int = 8) -> DataLoader[Any]:
    """Batches of inputs alone, in float32; ``number`` of them."""
    return loader_of([{"inputs": batch["inputs"].float()} for batch in make_batches(number, rows)])


# ---------------------------------------------------------------------------------------------------------- the columns
def test_there_is_a_column_per_task_and_a_row_per_row_in_order(tmp_path: Path) -> None:
    module, data = digits()
    writer = PredictionWriter(tmp_path / "new" / "out.parquet")
    predict(module, data, writer)
    assert writer.paths == [tmp_path / "new" / "out.parquet"]
    table = pq.read_table(writer.paths[0])
    assert {field.name: str(field.type) for field in table.schema} == {
        "left": "int64",
        "left.probability": "fixed_size_list<element: float>[10]",
        "right": "int64",
        "right.probability": "fixed_size_list<element: float>[10]",
        "sum": "float",
    }
    rows = data.rows("test")
    with torch.no_grad():
        outputs = module.eval()(torch.stack([rows[i]["inputs"] for i in range(77)]))
    for name, task in module.tasks.items():
        expected = task.predict(outputs[name])
        main = expected["label"] if isinstance(expected, dict) else expected
        torch.testing.assert_close(torch.tensor(table[name].to_pylist()), main)
        if isinstance(expected, dict):
            found = torch.tensor(table[f"{name}.probability"].to_pylist())
            torch.testing.assert_close(found, expected["probability"])


def test_a_vector_is_a_column_of_lists(tmp_path: Path) -> None:
    predict(make_module(), batches_of(2), PredictionWriter(tmp_path / "out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[3]"
    assert table.num_rows == 16


def test_the_metadata_tells_units_names_and_sigmas(tmp_path: Path) -> None:
    number = Regression(TargetSpec(units="metres"), standardize=True)
    number.fit_target(torch.tensor([0.0, 20.0]))
    data = TinyData()
    module = make_module(tasks={**data.tasks, "number": number}, balancer=UncertaintyWeighting)
    fit(module, TinyData(), precision="32-true")
    predict(module, batches_of(1), PredictionWriter(tmp_path / "out.parquet"))
    told = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"mtl_lightning"])
    assert told["units"] == {"number": "metres", "vector": "", "kind": ""}
    assert told["sigmas"] == module.sigmas(original_units=True)
    assert told["sigmas"]["number"] == pytest.approx(10.0 * module.sigmas()["number"])
    module, digit_data = digits()
    predict(module, digit_data, PredictionWriter(tmp_path / "digits.parquet"))
    told = json.loads(pq.read_schema(tmp_path / "digits.parquet").metadata[b"mtl_lightning"])
    assert told["names"] == {name: list(task.spec.names) for name, task in module.tasks.items()}


def test_no_sigmas_where_none_are_learned(tmp_path: Path) -> None:
    predict(make_module(), batches_of(1), PredictionWriter(tmp_path / "out.parquet"))
    assert json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"mtl_lightning"])["sigmas"] == {}


# ------------------------------------------------------------------------------------------------------------- the file
def test_by_default_it_is_in_the_directory_of_the_run(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "runs")
    predict(make_module(), batches_of(1), writer := PredictionWriter(), logger=logger)
    assert writer.paths == [Path(logger.log_dir) / "predictions.parquet"]
    assert pq.read_metadata(writer.paths[0]).num_rows == 8


def test_without_a_logger_it_is_in_the_trainers_directory(tmp_path: Path) -> None:
    predict(make_module(), batches_of(1), writer := PredictionWriter(), default_root_dir=tmp_path)
    assert writer.paths == [tmp_path / "predictions.parquet"]
    assert writer.paths[0].exists()


def test_its_path_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        predict(make_module(), batches_of(1), PredictionWriter(tmp_path / "out.parquet"))
    assert f"Predictions are in {tmp_path / 'out.parquet'}." in caplog.messages


def test_several_dataloaders_give_a_file_each(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out.parquet")
    predict(make_module(), [batches_of(1), batches_of(3)], writer)
    assert {path.name: pq.read_metadata(path).num_rows for path in writer.paths} == {
        "out_0.parquet": 8,
        "out_1.parquet": 24,
    }
    predict(make_module(), {"near": batches_of(2), "far/away": batches_of(1)}, writer)
    assert {path.name: pq.read_metadata(path).num_rows for path in writer.paths} == {
        "out_near.parquet": 16,
        "out_far-away.parquet": 8,
    }


def test_a_second_prediction_replaces_the_first(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "out.parquet")
    for batches in (3, 1):
        predict(make_module(), batches_of(batches), writer)
        assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 8 * batches
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.parametrize("kind", ["another table", "text", "an empty file"])
def test_a_file_of_something_else_is_refused_and_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    if kind != "another table":
        path.write_text("mine" if kind == "text" else "")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"train\.parquet, found something else there, which stays as it is"):
        predict(make_module(), batches_of(1), PredictionWriter(path))
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_the_file_appears_when_it_is_complete_and_not_after_an_error(tmp_path: Path) -> None:
    class Breaks(MultiTaskModule):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
            files = [path.name for path in tmp_path.iterdir()]
            assert "out.parquet" not in files
            assert batch_idx == 0 or files == [".out.parquet.part0"]
            if batch_idx == 2:
                raise OSError("disk on fire")
            return super().predict_step(batch, batch_idx, dataloader_idx)

    with pytest.raises(OSError, match="disk on fire"):
        predict(make_module(Breaks), batches_of(4), PredictionWriter(tmp_path / "out.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_an_error(tmp_path: Path) -> None:
    class Breaks(MultiTaskModule):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
            if batch_idx == 1:
                raise OSError("disk on fire")
            return super().predict_step(batch, batch_idx, dataloader_idx)

    writer = PredictionWriter(tmp_path / "out.parquet")
    predict(make_module(), batches_of(3), writer)
    with pytest.raises(OSError, match="disk on fire"):
        predict(make_module(Breaks), batches_of(4), writer)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 24


@pytest.mark.parametrize(("rows", "pad"), [(1, True), (2, False), (2, True), (37, False), (37, True)])
def test_two_processes_write_what_one_does(tmp_path: Path, rows: int, pad: bool) -> None:
    """By the library's loader, whose rows each process takes in turn; ``pad``: the last one may be made up."""

    class Padded(MultiDigit):
        def predict_dataloader(self) -> Any:
            return self._loader("test", pad=pad)

    data = Padded(sizes=(10, 10, rows), batch_size=4)
    module = make_module(tasks=data.tasks, input_spec=data.input_spec, architecture=partial(SharedBottom, encoder=MLP))
    predict(module, data, PredictionWriter(tmp_path / "one.parquet"))
    predict(module, data, PredictionWriter(tmp_path / "two.parquet"), devices=2, strategy="ddp_fork")
    one, two = pq.read_table(tmp_path / "one.parquet"), pq.read_table(tmp_path / "two.parquet")
    assert two.schema.equals(one.schema, check_metadata=True)
    assert two["left"].to_pylist() == one["left"].to_pylist()
    assert len(set(map(tuple, one["left.probability"].to_pylist()))) == rows  # an order that can be told
    for column in ("left.probability", "right.probability"):
        torch.testing.assert_close(torch.tensor(two[column].to_pylist()), torch.tensor(one[column].to_pylist()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "two.parquet"]


def test_two_processes_share_out_the_rows_of_a_foreign_loader(tmp_path: Path) -> None:
    rows = torch.randn(11, 4)
    loader = DataLoader(cast("Dataset[Any]", [{"inputs": row} for row in rows]), batch_size=2)
    module = make_module()
    predict(module, loader, PredictionWriter(tmp_path / "two.parquet"), devices=2, strategy="ddp_fork")
    expected = module.eval()(rows)["vector"]
    found = torch.tensor(pq.read_table(tmp_path / "two.parquet")["vector"].to_pylist())
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------------------------------------------------- refusals
def test_one_number_for_a_batch_is_refused(tmp_path: Path) -> None:
    class Mean(Regression):
        def predict(self, output: Tensor) -> Tensor:
            return super().predict(output).mean()

    module = make_module(tasks={"depth": Mean(TargetSpec())})
    with pytest.raises(ConfigurationError, match=r"Column 'depth': expected one prediction per row .* one number"):
        predict(module, batches_of(1), PredictionWriter(tmp_path / "out.parquet"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("prediction", "name"), [(torch.zeros(2), "Tensor"), (None, "NoneType"), ({}, "dict")])
def test_other_predictions_are_refused(tmp_path: Path, prediction: Any, name: str) -> None:
    class Other(MultiTaskModule):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return prediction

    with pytest.raises(ConfigurationError, match=rf"`predict_step` to return {{task: tensor}} .* found {name}"):
        predict(make_module(Other), batches_of(1), PredictionWriter(tmp_path / "out.parquet"))


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"the path of a file, found the directory {tmp_path}"):
        predict(make_module(), batches_of(1), PredictionWriter(tmp_path))


def test_several_processes_need_to_know_the_number_of_rows(tmp_path: Path) -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([{"inputs": torch.zeros(4)}] * 4)

    loader = DataLoader(Endless(), batch_size=2)
    predict(make_module(), loader, PredictionWriter(tmp_path / "one.parquet"))
    assert pq.read_metadata(tmp_path / "one.parquet").num_rows == 4
    with pytest.raises(Exception, match=r"a dataset with a length, .* found Endless. Predict with one process"):
        predict(make_module(), loader, PredictionWriter(tmp_path / "two.parquet"), devices=2, strategy="ddp_fork")
