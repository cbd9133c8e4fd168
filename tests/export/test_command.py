"""`mtl-lightning export` and `module.export`: from a real checkpoint of a table to a folder with a model card."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MMoE, TabularEncoder
from mtl_lightning.cli import main
from mtl_lightning.data import TableData
from mtl_lightning.encoding import RowEncoder
from mtl_lightning.exported import ExportedFolder
from tests.cli import CONFIGS, only
from tests.helpers import TinyData, fit, make_module

ROWS = 400


def houses(rows: int, seed: int = 0) -> dict[str, Any]:
    """Columns with gaps."""
    random = np.random.default_rng(seed)
    area, kind = random.normal(100, 30, rows), random.choice(["boat", "flat", "house"], rows)
    price = 3000 * area + 50_000 * (kind == "house")
    sold = np.where(random.random(rows) < 0.5, "yes", "no")
    gaps = random.random((2, rows)) < 0.1
    return {
        "area": pa.array(area, mask=gaps[0]),
        "kind": pa.array(kind, mask=gaps[1]),
        "price": price,
        "sold": sold,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultiTaskModule]:
    """A checkpoint, `last.ckpt`, beside the table that it was trained on, and its module."""
    folder = tmp_path_factory.mktemp("run")
    pq.write_table(pa.table(houses(ROWS)), folder / "houses.parquet")
    data = TableData(path=str(folder / "houses.parquet"), targets=["price", "sold"], batch_size=64)
    torch.manual_seed(0)
    module = MultiTaskModule(
        tasks=data.tasks,
        architecture=partial(MMoE, encoder=partial(TabularEncoder, hidden=(8,)), num_experts=2),
        input_spec=data.input_spec,
    )
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder, module


def test_the_command_compares_on_real_rows_and_writes_a_card(
    run: tuple[Path, MultiTaskModule], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    options = ["--ckpt_path", str(folder / "last.ckpt"), "--out", str(tmp_path / "out")]
    main(["export", *options, "--format", "pt2", "--intended_use", "Prices of houses in town."])
    said = capsys.readouterr().out
    assert "Compared with `predict` on 40 rows (of the test split), the largest differences:" in said
    assert "of the target's standard deviation" in said
    card = (tmp_path / "out/README.md").read_text()
    for text in (
        "| price | Regression | one | - | - |",
        "| train | 320 | 320 | 320 (no: ",
        "| test | 40 | 40 | 40 (no: ",
        "Numeric columns: area. Categorical ones: kind (3 values).",
        "| sold | accuracy | 0.",
        "| sold | ece | 0.",
        "| sold | brier | 0.",
        "MMoE, ",
        "Prices of houses in town.",
        '"class_path": "mtl_lightning.data.TableData"',
        "| torch | ",
    ):
        assert text in card, text
    sold = [line for line in card.splitlines() if line.startswith("| sold | auroc")]
    assert sold[0].endswith("| 0.5 |")  # the baseline of a constant
    document = json.loads((tmp_path / "out/schema.json").read_text())
    assert document["schema"]["categorical"] == {"kind": ["boat", "flat", "house"]}
    assert document["tasks"]["sold"] == {"form": "binary", "names": ["no", "yes"]}
    assert document["versions"].keys() >= {"mtl_lightning", "torch", "format"}


def test_rows_of_a_file_and_data_that_has_gone(
    run: tuple[Path, MultiTaskModule], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the answers agree on 500 rows with gaps and values that training never saw."""
    folder, module = run
    columns = houses(500, seed=1)
    kinds = columns["kind"].to_pylist()
    kinds[:50] = ["castle"] * 50
    table = pa.table({"kind": kinds, "area": columns["area"]})
    pq.write_table(table, tmp_path / "new.parquet")
    (folder / "houses.parquet").rename(folder / "elsewhere.parquet")
    try:
        options = ["--ckpt_path", str(folder / "last.ckpt"), "--format", "onnx", "--out", str(tmp_path / "out")]
        main(["export", *options, "--rows", str(tmp_path / "new.parquet")])
    finally:
        (folder / "elsewhere.parquet").rename(folder / "houses.parquet")
    assert "on 500 rows (of new.parquet)" in capsys.readouterr().out
    assert "could not be read here" in (tmp_path / "out/README.md").read_text()
    schema = ExportedFolder(tmp_path / "out").document["schema"]
    inputs = RowEncoder(schema).inputs(table)
    assert np.isnan(inputs["numeric"]).any()
    assert (inputs["categorical"] == 0).sum() >= 50
    found = ExportedFolder(tmp_path / "out").model.run(inputs)
    predicted = module.predict({name: torch.from_numpy(part) for name, part in inputs.items()})
    np.testing.assert_allclose(found["sold"], predicted["sold"]["probability"], rtol=0, atol=1e-5)
    scale = schema["targets"]["price"]["std"]
    np.testing.assert_allclose(found["price"] / scale, predicted["price"] / scale, rtol=0, atol=1e-5)


def test_a_module_exports_itself_with_the_rows_of_its_trainer(tmp_path: Path) -> None:
    module = make_module()
    fit(module, TinyData(), precision="32-true")
    done = module.export(tmp_path / "out", format="pt2", intended_use="Tests.")
    assert (done.rows, done.source) == (8, "of the validation data")
    assert done.folder == tmp_path / "out"
    x = torch.randn(6, 4)
    found = ExportedFolder(tmp_path / "out").model.run(x.numpy())
    np.testing.assert_allclose(found["vector"], module.predict(x)["vector"], rtol=0, atol=1e-6)
    assert "Of the val split." in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ckpt_path", "none.ckpt"], "none.ckpt"),
        (["--format", "pickle"], "format"),
        (["--ckpt_path", "none.ckpt", "--module", "builtins.dict"], "expected a MultiTaskModule"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", *options, "--out", str(tmp_path / "out")])
    assert message in f"{caught.value.code}{capsys.readouterr().err}"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trained_segnet_is_exported(tmp_path: Path) -> None:
    """With random weights rounding would decide which pixel is the largest, and so what its upsampling does."""
    small = ["--data.init_args.sizes=[320,8,40]", "--data.init_args.batch_size=8", "--trainer.max_epochs=1"]
    config = str(CONFIGS / "shapes_segnet.yaml")
    main(["fit", "--config", config, *small, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"])
    for format in ("onnx", "pt2"):
        main(["export", "--ckpt_path", str(only(tmp_path, "last.ckpt")), "--format", format, "--out", format])
        assert {path.name for path in Path(format).iterdir()} == {f"model.{format}", "schema.json", "README.md"}
