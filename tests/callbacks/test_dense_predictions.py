"""Maps of real runs, read back from their files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SegNet, SharedBottom
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.core.update.figures import png
from mtl_lightning.data import SyntheticShapes
from mtl_lightning.tasks import Regression, Task
from mtl_lightning.types import ConfigurationError, TargetSpec
from tests.cli import CONFIGS, only, run
from tests.helpers import make_module, make_trainer

DATA = partial(SyntheticShapes, sizes=(4, 4, 11), height=8, width=12, batch_size=4)
TASKS = ("segmentation", "depth", "normals")


class Mean(nn.Module):
    """A head that gives one number a row, of dense features."""

    def __init__(self, in_features: tuple[int, ...], out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features[0], out_features)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.linear(features.mean((2, 3)))
        return found


def shapes(data: SyntheticShapes, *, more: bool = False) -> MultiTaskModule:
    """The dense tasks, and if wanted one with a number a row."""
    options: dict[str, Any] = {"tasks": dict(data.tasks)}
    if more:
        options["tasks"]["size"] = Regression(TargetSpec(units="pixels"))
        options["heads"] = {"size": Mean}
    network = partial(SharedBottom, encoder=partial(SegNet, widths=[4]))
    return make_module(architecture=network, input_spec=data.input_spec, **options)


def predict(module: MultiTaskModule, data: Any, *callbacks: Any, **options: Any) -> Trainer:
    trainer = make_trainer(callbacks=[*callbacks], **{"precision": "32-true", **options})
    trainer.predict(module, data, return_predictions=False)
    return trainer


def loader(data: SyntheticShapes, rows: int = 11, batch_size: int = 4) -> DataLoader[Any]:
    """The test pictures without a datamodule, so that the module may have more tasks than it declares."""
    made = data.rows("test")
    pictures = [{"inputs": made[i]["inputs"]} for i in range(rows)]
    return DataLoader(cast("Dataset[Any]", pictures), batch_size=batch_size)


def expected(module: MultiTaskModule, data: SyntheticShapes) -> dict[str, Any]:
    rows = data.rows("test")
    with torch.no_grad():
        outputs = module.eval()(torch.stack([rows[i]["inputs"] for i in range(11)]))
    return {name: task.predict(outputs[name]) for name, task in module.tasks.items()}


def files(folder: Path) -> dict[str, list[str]]:
    return {part.name: sorted(path.name for path in part.iterdir()) for part in folder.iterdir() if part.is_dir()}


def assert_maps(folder: Path, module: MultiTaskModule, data: SyntheticShapes) -> None:
    """Each row's file holds the prediction of that row."""
    found = expected(module, data)
    names = sorted(f"{row}.npy" for row in range(11))
    assert files(folder) == dict.fromkeys(TASKS, names)
    for row in range(11):
        label = np.load(folder / "segmentation" / f"{row}.npy")
        assert label.dtype == np.uint8
        assert (label != found["segmentation"]["label"][row].numpy()).mean() < 0.02  # ties
        for name in ("depth", "normals"):
            values = np.load(folder / name / f"{row}.npy")
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, found[name][row], atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ the files
def test_there_is_a_file_per_task_and_row(tmp_path: Path) -> None:
    data = DATA()
    module, writer = shapes(data), PredictionWriter(tmp_path / "new" / "out.parquet")
    predict(module, data, writer)
    assert writer.paths == [tmp_path / "new" / "out"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]  # no table, and nothing hidden
    assert_maps(writer.paths[0], module, data)
    told = json.loads((writer.paths[0] / "metadata.json").read_text())
    assert told["names"]["segmentation"] == ["background", "sphere", "box", "ramp"]
    assert told["units"]["depth"] == "heights of the picture"


@pytest.mark.parametrize("name", ["segmentation/11.npy", "metadata.json"])
def test_a_folder_of_something_else_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    data = DATA()
    with pytest.raises(ConfigurationError, match=r"predictions to .*out, found something else there"):
        predict(shapes(data), data, PredictionWriter(tmp_path / "out.parquet"))
    assert mine.read_text() == "{}"
    mine.unlink()
    mine.parent.rmdir()
    predict(shapes(data), data, PredictionWriter(tmp_path / "out.parquet"))  # an empty folder is nobody's


def test_tables_and_maps_come_together(tmp_path: Path) -> None:
    data = DATA()
    module, writer = shapes(data, more=True), PredictionWriter(tmp_path / "out.parquet")
    predict(module, loader(data), writer)
    assert writer.paths == [tmp_path / "out.parquet", tmp_path / "out"]
    table = pq.read_table(writer.paths[0])
    assert table.column_names == ["size"]
    torch.testing.assert_close(torch.tensor(table["size"].to_pylist()), expected(module, data)["size"])
    assert_maps(writer.paths[1], module, data)


def test_class_maps_as_pictures_and_all_maps(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    data = DATA()
    module = shapes(data)
    predict(module, data, PredictionWriter(tmp_path / "out.parquet", maps="png", all_maps=True))
    assert {name: found[0] for name, found in files(tmp_path / "out").items()} == {
        "segmentation": "0.png",
        "segmentation.probability": "0.npy",
        "depth": "0.npy",
        "normals": "0.npy",
    }
    found = expected(module, data)["segmentation"]
    for row in (0, 10):
        picture = image.open(tmp_path / "out" / "segmentation" / f"{row}.png")
        assert (picture.mode, picture.size) == ("L", (12, 8))
        assert (np.asarray(picture) != found["label"][row].numpy()).mean() < 0.02
        probability = np.load(tmp_path / "out" / "segmentation.probability" / f"{row}.npy")
        np.testing.assert_allclose(probability, found["probability"][row], atol=1e-5)


@pytest.mark.parametrize("sides", [(1, 1), (3, 200), (288, 384)])
def test_a_picture_is_what_pillow_reads(tmp_path: Path, sides: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image")
    values = np.random.default_rng(0).integers(0, 256, sides, dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(values))
    np.testing.assert_array_equal(np.asarray(image.open(tmp_path / "a.png")), values)


def test_more_than_256_classes_need_wider_numbers(tmp_path: Path) -> None:
    from mtl_lightning.tasks import SemanticSegmentation

    data = DATA()
    many: dict[str, Task] = {"kinds": SemanticSegmentation(TargetSpec(shape=(8, 12), classes=300))}
    network = partial(SharedBottom, encoder=partial(SegNet, widths=[4]))
    module = make_module(tasks=many, architecture=network, input_spec=data.input_spec)
    head: Any = module.heads["kinds"]
    head.last_affine().bias.data[299] += 10
    predict(module, loader(data), PredictionWriter(tmp_path / "out.parquet", maps="png"))
    found = np.stack([np.load(tmp_path / "out" / "kinds" / f"{row}.npy") for row in range(11)])
    assert found.dtype == np.int64
    assert found.max() > 255
    np.testing.assert_array_equal(found, expected(module, data)["kinds"]["label"])


# -------------------------------------------------------------------------------------------------------- several runs
def test_maps_of_an_earlier_run_are_replaced_or_removed(tmp_path: Path) -> None:
    data = DATA()
    module = shapes(data)
    predict(module, data, PredictionWriter(tmp_path / "out.parquet", maps="png"))
    (tmp_path / "out" / "segmentation" / "notes.txt").write_text("mine")
    predict(module, loader(data, rows=3), PredictionWriter(tmp_path / "out.parquet"))
    assert files(tmp_path / "out")["segmentation"] == ["0.npy", "1.npy", "2.npy", "notes.txt"]
    assert files(tmp_path / "out")["depth"] == ["0.npy", "1.npy", "2.npy"]


def test_after_an_error_there_is_nothing_new(tmp_path: Path) -> None:
    class Breaks(MultiTaskModule):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
            if batch_idx == 2:
                assert [path.name for path in tmp_path.iterdir()] == [".out.part0"]
                raise OSError("disk on fire")
            return super().predict_step(batch, batch_idx, dataloader_idx)

    data = DATA()
    network = partial(SharedBottom, encoder=partial(SegNet, widths=[4]))
    module = make_module(Breaks, tasks=dict(data.tasks), architecture=network, input_spec=data.input_spec)
    with pytest.raises(OSError, match="disk on fire"):
        predict(module, data, PredictionWriter(tmp_path / "out.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_several_dataloaders_give_a_folder_each(tmp_path: Path) -> None:
    data = DATA()
    writer = PredictionWriter(tmp_path / "out.parquet")
    predict(shapes(data), {"near": loader(data, rows=2), "far": loader(data, rows=5)}, writer)
    assert {path.name: len(files(path)["depth"]) for path in writer.paths} == {"out_near": 2, "out_far": 5}


def test_a_path_without_a_suffix(tmp_path: Path) -> None:
    data = DATA()
    writer = PredictionWriter(tmp_path / "out")
    predict(shapes(data, more=True), loader(data), writer)
    assert writer.paths == [tmp_path / "out", tmp_path / "out.maps"]


def test_another_form_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected `maps` to be 'npy' or 'png', found 'jpg'"):
        PredictionWriter(maps="jpg")  # type: ignore[arg-type]  # that is the point


# --------------------------------------------------------------------------------------------------- several processes
class Padded(SyntheticShapes):
    """Hands out a made-up row where a process has one row less than another, as a foreign loader would."""

    def predict_dataloader(self) -> Any:
        return self._loader("test", pad=True)


@pytest.mark.parametrize("cls", [SyntheticShapes, Padded])
def test_two_processes_write_what_one_does(tmp_path: Path, cls: type[SyntheticShapes]) -> None:
    """11 rows; the second process has 5, or makes up a sixth."""
    data = cls(sizes=(4, 4, 11), height=8, width=12, batch_size=4)
    module, writer = shapes(data), PredictionWriter(tmp_path / "out.parquet")
    predict(module, data, writer, devices=2, strategy="ddp_fork")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert_maps(tmp_path / "out", module, data)


def test_one_row_for_two_processes(tmp_path: Path) -> None:
    data = Padded(sizes=(4, 4, 1), height=8, width=12)
    predict(shapes(data), data, PredictionWriter(tmp_path / "out.parquet"), devices=2, strategy="ddp_fork")
    assert files(tmp_path / "out") == {name: ["0.npy"] for name in TASKS}


# ----------------------------------------------------------------------------------------------------- the command line
def test_the_command_line_writes_maps_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ["--config", str(CONFIGS / "shapes_segnet.yaml"), "--data.init_args.sizes=[16,4,6]"]
    quick = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--test_after_fit=false"]
    run(monkeypatch, "fit", *config, *quick)
    checkpoint = f"--ckpt_path={only(tmp_path, 'last.ckpt')}"
    run(monkeypatch, "predict", *config, checkpoint, "--predictions.maps=png")
    folder = only(tmp_path, "predictions")
    assert files(folder) == {
        "segmentation": [f"{row}.png" for row in range(6)],
        "depth": [f"{row}.npy" for row in range(6)],
        "normals": [f"{row}.npy" for row in range(6)],
    }
