"""Made the checkpoints in this folder: ``python -m tests.checkpoints.format_1.make``, at commit b80ffe4.

That was mtl_lightning 0.1.0 as of that commit, with torch 2.13.0 (CPU), lightning 2.6.6, torchjd 0.18 and Python 3.11.
Do not run it with later code: what it is there for is that the files are old.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

import mtl_lightning
from mtl_lightning import MultiTaskModule, architectures, balancing, callbacks, cli, core, data, metrics, tasks, types
from mtl_lightning.data import files
from tests.checkpoints.format_1.cases import CASES, FOLDER, Case, make_module, make_trainer, predictions
from tests.contracts import architecture_cases, balancer_cases

SMALL = 60_000  # bytes


class Interrupted(Callback):
    """Saves after one batch of the run, wherever in a window it is."""

    def __init__(self, batch: int, path: str) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.save_checkpoint(self.path)


def write_tables() -> None:
    """Write the tables that the cases read: text with gaps, and Parquet in row groups of 8."""
    source = random.Random(0)
    for name, rows in (("train", 48), ("val", 12)):
        text = ["size,colour,price,sold,kind"]
        for _ in range(rows):
            size, colour = source.gauss(0, 1), source.choice(["red", "green", "blue", ""])
            price = 3 * size + {"red": 1, "green": 2}.get(colour, 0) + source.gauss(0, 0.1)
            kind = "abc"[int(size > 0.3) + int(size > -0.3)]
            cells = [f"{size:.4f}", colour, f"{price:.4f}", str(int(price > 1)), kind]
            text.append(",".join("" if source.random() < 0.1 else cell for cell in cells))
        Path(f"{name}.csv").write_text("\n".join(text) + "\n")
    read = csv.read_csv("train.csv", convert_options=csv.ConvertOptions(strings_can_be_null=True))
    parquet.write_table(read, "train.parquet", row_group_size=8)


def make(name: str, case: Case) -> None:
    """Train a case, write its checkpoint on the way, and what it predicts there and weighs at the end."""
    path = f"{name}.ckpt"
    options: dict[str, Any] = {"callbacks": [Interrupted(case.batch, path)]}
    if case.processes > 1:
        options |= {"devices": 2, "strategy": DDPStrategy(start_method="fork", process_group_backend="gloo")}
    source: Any = case.data()
    module = make_module(case, source)
    torch.manual_seed(1)
    make_trainer(case, **options).fit(module, datamodule=source)
    saved = torch.load(path, weights_only=True)
    assert "format" not in saved["mtl_lightning"], "this is later code, which writes another format"
    assert len(saved["mtl_lightning"]["processes"]) == case.processes
    end = copy.deepcopy(dict(module.state_dict())) if case.resumes else None
    predicted = predictions(MultiTaskModule.load_from_checkpoint(path), case.data())
    torch.save({"predictions": predicted, "end": end}, f"{name}.expected")
    for file in (path, f"{name}.expected"):
        size = Path(file).stat().st_size
        assert size < SMALL, f"{file}: {size} bytes"


# ---------------------------------------------------------------------------------------------------------------- names
PACKAGES = (mtl_lightning, architectures, balancing, callbacks, cli, core, data, tasks)
MODULES = (files, metrics, types)


def public_names() -> list[str]:
    """Return what users import, and YAML and checkpoints name."""
    names = [f"{package.__name__}.{name}" for package in PACKAGES for name in package.__all__]
    own = [(module, name) for module in MODULES for name, value in vars(module).items() if _is_own(module, name, value)]
    return sorted([*names, *(f"{module.__name__}.{name}" for module, name in own)])


def _is_own(module: Any, name: str, value: Any) -> bool:
    return not name.startswith("_") and getattr(value, "__module__", None) == module.__name__


def shapes(module: nn.Module) -> dict[str, Any]:
    """Return the shape and dtype of each tensor in a state dict, and what is no tensor as it is."""
    return {
        name: [list(value.shape), str(value.dtype)] if isinstance(value, torch.Tensor) else repr(value)
        for name, value in module.state_dict().items()
    }


def write_names() -> None:
    """Write the public names, and those in the state of our balancers, after two updates, and architectures."""
    states: dict[str, dict[str, Any]] = {"balancers": {}, "architectures": {}}
    for case in [case for case in balancer_cases.CASES if case.ours]:
        balancer = case.make(3)
        balancer_cases.train(balancer, 2)
        states["balancers"][str(case)] = shapes(balancer)
    for pair in architecture_cases.ONE_OF_EACH:
        factory, spec = pair.values
        states["architectures"][pair.id] = shapes(factory(spec, architecture_cases.TASKS))
    names = {name: dict(sorted(cases.items())) for name, cases in states.items()}
    Path("names.json").write_text(json.dumps({"public": public_names(), **names}, separators=(",", ":")) + "\n")


def main() -> None:
    """Make everything in a folder of its own, so that no path of this machine gets into a file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_tables()
        for name, case in CASES.items():
            random.seed(0)
            np.random.seed(0)
            make(name, case)
        write_names()
        for file in Path().iterdir():
            if file.is_file():
                shutil.copy(file, FOLDER)
        os.chdir(FOLDER)


if __name__ == "__main__":
    main()
