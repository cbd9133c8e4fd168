"""A training program to be killed: it goes on from its last checkpoint, and stops at a moment to say that it is there.

``python -m tests.conformance.victim FOLDER [MOMENT [SETTING]]``. A moment is ``batch 11`` (before the batch that
follows update 11), ``validation 3`` (at the second batch of the validation after epoch 3) or ``saving 12`` (half-way
through the first checkpoint that is written after update 12). There it prints ``reached`` and waits to be killed. At
``SIGTERM 11`` or ``SIGKILL 11`` the last of its processes sends itself that signal instead. A process that is left
alone writes what it ended with to ``FOLDER/end<rank>.pt``. A setting is one of :data:`SETTINGS`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.utils.data import Dataset

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting, UPGrad
from mtl_lightning.data import MultiTaskDataModule, Split, TaskFactory
from mtl_lightning.types import TargetSpec, TensorSpec, input_spec_to_dict
from tests.helpers import FACTORIES, INPUTS, SPECS, make_rows

EPOCHS, ROWS, BATCH, ACCUMULATE = 12, 90, 8, 2
UPDATES_PER_EPOCH = 6  # 12 batches, the last of 2 rows
UPDATES = 48  # then it stops early
TIMEOUT = timedelta(seconds=30)
SETTINGS: dict[str, Any] = {
    "uncertainty": partial(UncertaintyWeighting, init="first_batch"),
    "UPGrad": UPGrad,
    "sharded": UncertaintyWeighting,
}
"""The balancer; several processes share the parameters of ``sharded`` out."""
SAVE_EVERY = 4  # updates, so that some checkpoints are an epoch's last


class Augmented(Dataset[Any]):
    """Rows with noise from all three generators of the process that reads them."""

    def __init__(self, part: slice) -> None:
        inputs, targets = make_rows(ROWS + 20)
        self.inputs, self.targets = inputs[part], {name: target[part] for name, target in targets.items()}

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> dict[str, Any]:
        noise = torch.randn(INPUTS) + float(np.random.randn()) + random.gauss(0, 1)
        targets = {name: t[row].float() if t.is_floating_point() else t[row] for name, t in self.targets.items()}
        return {"inputs": self.inputs[row].float() + 0.1 * noise, "targets": targets}


class AugmentedData(MultiTaskDataModule):
    """The tiny problem, read and augmented by two worker processes."""

    def __init__(self) -> None:
        super().__init__(batch_size=BATCH, num_workers=2)

    def read_schema(self) -> dict[str, Any]:
        return {"input_spec": input_spec_to_dict(TensorSpec((INPUTS,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        return {name: (SPECS[name], FACTORIES[name]) for name in FACTORIES}

    def rows(self, split: Split) -> Augmented:
        return Augmented(slice(ROWS) if split == "train" else slice(ROWS, None))


class Wait:
    """Something to be saved, which takes for ever."""

    def __reduce__(self) -> Any:
        wait()


def wait() -> None:
    """Say that the moment is there, and wait to be killed."""
    sys.stdout.write("reached\n")
    sys.stdout.flush()
    time.sleep(600)


class Moment(Callback):
    """Waits at the chosen moment."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind, self.number = kind, number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.number == trainer.global_step:
            if self.kind == "batch":
                wait()
            elif self.kind in ("SIGTERM", "SIGKILL") and trainer.global_rank == trainer.world_size - 1:
                os.kill(os.getpid(), signal.Signals[self.kind])

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if (self.kind, self.number, 1) == ("validation", trainer.current_epoch, batch_idx):
            wait()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if (self.kind, self.number) == ("saving", trainer.global_step):
            checkpoint["half-way"] = Wait()


def local(value: Any) -> Any:
    """This process's part of what is sharded."""
    if isinstance(value, dict):
        return {key: local(item) for key, item in value.items()}
    return value.to_local() if isinstance(value, DTensor) else value


def strategy_of(setting: str, world: int) -> Any:
    """Several processes; a sharded checkpoint is one file, as the others are."""
    options: dict[str, Any] = {"process_group_backend": "gloo", "timeout": TIMEOUT}
    if setting == "sharded":
        return ModelParallelStrategy(world, 1, save_distributed_checkpoint=False, **options)
    return DDPStrategy(**options) if world > 1 else "auto"


def main(folder: Path, moment: tuple[str, int], setting: str) -> None:
    """Train from the last checkpoint, if there is one, to the end."""
    torch.set_num_threads(1)
    rank, world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    seed_everything(rank, verbose=False)  # so that each process drops out features of its own choice
    data = AugmentedData()
    module = MultiTaskModule(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[8, 6], activation=nn.Tanh, dropout=0.3)),
        balancer=SETTINGS[setting],
        reads={"kind": ["number"]},
        optimizers={
            "shared": partial(SGD, lr=0.05, momentum=0.9),
            "number": partial(Adam, lr=0.02),
            "balancer": partial(Adam, lr=0.01),
            "default": partial(AdamW, lr=0.01),
        },
        schedulers={
            "shared": Schedule(partial(CosineAnnealingLR, T_max=100), interval="step"),
            "number": Schedule(partial(ReduceLROnPlateau, patience=0, factor=0.5, threshold=0.2), monitor="val/loss"),
        },
    )
    stopping = EarlyStopping("val/loss", patience=3, min_delta=0.3)
    last = ModelCheckpoint(folder, every_n_train_steps=SAVE_EVERY, save_top_k=0, save_last=True)
    best = ModelCheckpoint(
        folder, monitor="val/loss", save_top_k=2, filename="best-{step}", enable_version_counter=False
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy_of(setting, world),
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATE,
        callbacks=[stopping, last, best, Moment(*moment)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path="last")
    end = {
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "stopping": stopping.state_dict(),
        "best": {Path(path).name: score for path, score in best.best_k_models.items()},
        "updates": trainer.global_step,
        "epochs": trainer.current_epoch,
        "draws": (torch.rand(()), random.random(), float(np.random.rand())),
    }
    torch.save(local(end), folder / f"end{rank}.pt")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    where, when, how = [*sys.argv[1:], *("", "never 0", "uncertainty")[len(sys.argv) - 1 :]]
    kind, number = when.split()
    main(Path(where), (kind, int(number)), how)
