"""Runs on a streamed table; as a program, it makes them all on each of several processes."""

from __future__ import annotations

import sys
from functools import partial
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.callbacks import PredictionWriter
from mtl_lightning.data import TableData
from mtl_lightning.data.streaming.table import Streaming
from mtl_lightning.data.table.split import TableSplit
from tests.helpers import make_trainer

ROWS, BATCH = 331, 16
NETWORK = partial(SharedBottom, encoder=partial(TabularEncoder, hidden=[8]))


def write(folder: Path) -> Path:
    """Three files of row groups of 25; a quarter of the labels of ``kind`` is missing, ``row`` never is."""
    random = np.random.default_rng(0)
    row = np.arange(ROWS)
    unlabelled = random.random(ROWS) < 0.25
    table = pa.table(
        {
            "row": row.astype(np.float32),
            "kind": pa.array(np.array(["a", "b", "c"])[row % 3], pa.string(), mask=unlabelled),
            "x": random.standard_normal(ROWS) + row % 3,
            "place": pa.array(np.array(["north", "south"])[row % 2]),
            "fold": pa.array(np.where(row % 10 < 7, "train", "val")),
        }
    )
    folder.mkdir()
    for part, start in enumerate((0, 120, 300)):
        pq.write_table(table.slice(start, [120, 180, 31][part]), folder / f"{part}.parquet", row_group_size=25)
    return folder


def make_data(folder: Path, **options: Any) -> TableData:
    defaults: dict[str, Any] = {
        "path": str(folder / "table"),
        "targets": ["row", "kind"],
        "numeric": ["x"],
        "split": TableSplit(column="fold"),
        "stream": Streaming(buffer_rows=60, cache=str(folder / "cache")),
        "batch_size": BATCH,
    }
    return TableData(**{**defaults, **options})


class Notes(Callback):
    """Notes the rows that are trained on; nan for one that fills up."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.rows += batch["targets"]["row"].tolist()


def run(folder: Path, data: TableData, *callbacks: Any, ckpt_path: str | None = None, **options: Any) -> dict[str, Any]:
    """Train for two epochs, and say what was seen and what came out."""
    torch.manual_seed(0)
    module = MultiTaskModule(tasks=data.tasks, input_spec=data.input_spec, architecture=NETWORK)
    notes = Notes()
    plan = {"precision": "32-true", "num_sanity_val_steps": 0, "max_epochs": 2, **options}
    trainer = make_trainer(callbacks=[notes, *callbacks], default_root_dir=folder, **plan)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return {
        "rows": notes.rows,
        "steps": trainer.global_step,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "weights": {name: tensor.clone() for name, tensor in module.state_dict().items()},
    }


def validated(folder: Path, data: TableData, **options: Any) -> dict[str, float]:
    """The metrics of the validation rows, of the same network for any number of processes."""
    torch.manual_seed(0)
    module = MultiTaskModule(tasks=data.tasks, input_spec=data.input_spec, architecture=NETWORK)
    [metrics] = make_trainer(precision="32-true", default_root_dir=folder, **options).validate(
        module, data, verbose=False
    )
    return {name: float(value) for name, value in metrics.items()}


def predicted(folder: Path, data: TableData, **options: Any) -> Path:
    """The file of the predictions of all rows."""
    torch.manual_seed(0)
    module = MultiTaskModule(tasks=data.tasks, input_spec=data.input_spec, architecture=NETWORK)
    writer = PredictionWriter(folder / "predictions.parquet", keep=["x", "place"])
    trainer = make_trainer(callbacks=[writer], precision="32-true", default_root_dir=folder, **options)
    trainer.predict(module, datamodule=data, return_predictions=False)
    return writer.paths[0]


class EveryThirdCheckpoint(ModelCheckpoint):
    """Keeps a checkpoint of every third step."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="{step}", save_top_k=-1, every_n_train_steps=3, enable_version_counter=False)


def main(place: str) -> None:
    """Make every run on this process, and save what it ends with."""
    folder, rank, world = Path(place), int(environ["RANK"]), int(environ["WORLD_SIZE"])
    several: dict[str, Any] = {"strategy": "ddp", "devices": world}
    ended: dict[str, Any] = {
        "trained": run(folder, make_data(folder), EveryThirdCheckpoint(folder / "saved"), **several),
        "resumed": run(folder, make_data(folder), ckpt_path=str(folder / "saved/step=6.ckpt"), **several),
        "validated": validated(folder, make_data(folder), **several),
    }
    predicted(folder, make_data(folder, predict=str(folder / "table")), **several)
    torch.save(ended, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
