"""The measure of the conformance suite: a module with automatic optimization, and what a run leaves behind."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from mtl_lightning import Schedule
from mtl_lightning.types import Batch
from tests.helpers import fit, make_module, make_tasks, weights_of


# ------------------------------------------------------------------------------------------------------- the two sides
class Plain(LightningModule):
    """The same network and the sum of its losses, written as Lightning's own documentation would.

    One thing is not Lightning's: a last window that is not full is divided by its own number of batches. Lightning
    divides it by ``accumulate_grad_batches`` all the same.
    """

    def __init__(self, tasks: Sequence[str], optimizer: Any, schedule: Schedule | None = None) -> None:
        super().__init__()
        made = make_module(tasks=make_tasks(*tasks))
        self.architecture, self.heads = made.architecture, made.heads
        self.optimizer, self.schedule = optimizer, schedule
        self.windows_of_their_own_size = True

    @property
    def backbone(self) -> Any:
        """What ``BackboneFinetuning`` freezes."""
        return self.architecture

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = self.architecture(inputs, list(self.heads)).per_task
        return {name: head(features[name]) for name, head in self.heads.items()}

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error, plus mean absolute error, plus cross-entropy, in float32 or better."""
        outputs, targets = self(batch["inputs"]), batch["targets"]
        with torch.autocast("cpu", enabled=False):
            wide = {n: out.float() if out.dtype.itemsize < 4 else out for n, out in outputs.items()}
            losses = []
            if "number" in wide:
                losses.append(F.mse_loss(wide["number"][:, 0], targets["number"].to(wide["number"].dtype)))
            if "vector" in wide:
                losses.append(F.l1_loss(wide["vector"], targets["vector"].to(wide["vector"].dtype)))
            if "kind" in wide:
                losses.append(F.cross_entropy(wide["kind"], targets["kind"]))
            return torch.stack(losses).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        window, total = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        in_last = batch_idx >= total - total % window
        return loss * (window / (total % window)) if in_last and self.windows_of_their_own_size else loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log_loss("val", batch, dataloader_idx, self.trainer.val_dataloaders)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log_loss("test", batch, dataloader_idx, self.trainer.test_dataloaders)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self(batch["inputs"])
        return outputs

    def log_loss(self, stage: str, batch: Batch, index: int, loaders: Any) -> None:
        name = f"{stage}/{index}/loss" if isinstance(loaders, tuple) else f"{stage}/loss"
        self.log(name, self.loss(batch), batch_size=len(batch["inputs"]), add_dataloader_idx=False)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.schedule is None:
            return optimizer
        warmup = int(self.schedule.warmup)
        warm = LinearLR(optimizer, 0.01, total_iters=warmup) if warmup else None
        scheduler: Any = self.schedule.scheduler(optimizer)
        if warm is not None:
            scheduler = SequentialLR(optimizer, [warm, scheduler], [warmup])
        options = {"interval": self.schedule.interval or "epoch", "frequency": self.schedule.frequency}
        watched = {"monitor": self.schedule.monitor} if self.schedule.monitor else {}
        return [optimizer], [{"scheduler": scheduler, "name": "lr", **options, **watched}]


# --------------------------------------------------------------------------------------------------- what is noted
class Notes(Callback):
    """Notes the name of every hook that is called, and the rate of every trained parameter at every batch."""

    def __init__(self) -> None:
        self.hooks: list[str] = []
        self.rates: list[dict[str, float]] = []

    def note_rates(self, trainer: Trainer, module: LightningModule) -> None:
        rate = {id(p): group["lr"] for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
        self.rates.append({name: rate[id(p)] for name, p in module.named_parameters() if p.requires_grad})


def _noting(hook: str) -> Callable[..., None]:
    def called(self: Notes, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        self.hooks.append(hook)
        if hook == "on_train_batch_start":
            self.note_rates(trainer, module)

    return called


for _hook in dir(Callback):
    if _hook.startswith("on_"):
        setattr(Notes, _hook, _noting(_hook))


def batches_of(hooks: Sequence[str]) -> list[list[str]]:
    """Cut the names of a run's hooks into those of each training batch."""
    starts = [index for index, name in enumerate(hooks) if name == "on_train_batch_start"]
    ends = [index for index, name in enumerate(hooks) if name == "on_train_batch_end"]
    return [list(hooks[start : end + 1]) for start, end in zip(starts, ends, strict=True)]


# ------------------------------------------------------------------------------------------------------------- a run
@dataclass(frozen=True)
class Feature:
    """One thing that Lightning offers, and how it is asked for.

    Args:
        options: of the trainer.
        callbacks: makes new ones for each run.
        optimizer: of every group.
        schedule: of every group.
        windows: whether a window has several batches, so that hooks come in another order (ours runs all forwards
            and backwards of a window on its last batch) and the logged training loss is that of the whole window.
        several: two validation loaders.
        watches: whether what happens depends on a loss, so that only runs with the same weights are alike.
    """

    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    optimizer: Any = None
    schedule: Schedule | None = None
    windows: bool = False
    several: bool = False
    watches: bool = False


@dataclass
class Ended:
    """What a run leaves behind."""

    trainer: Trainer
    weights: dict[str, Tensor]
    notes: Notes
    files: list[str]
    logged: dict[str, list[tuple[int, set[float]]]]


def run(module: LightningModule, feature: Feature, train: Any, val: Any, folder: str, **options: Any) -> Ended:
    """Fit a module with a feature; each run makes its own callbacks and has a folder of its own."""
    notes = Notes()
    chosen: dict[str, Any] = {
        "logger": CSVLogger(folder),
        "default_root_dir": folder,
        "enable_checkpointing": not feature.options.get("fast_dev_run"),
        "log_every_n_steps": 2,
        "max_epochs": 2,
        "callbacks": [notes, *feature.callbacks()],
    }
    trainer = fit(module, train, val, **{**chosen, **options, **feature.options})
    files = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.ckpt"))
    return Ended(trainer, weights_of(module), notes, files, read_log(folder))


def read_log(folder: str) -> dict[str, list[tuple[int, set[float]]]]:
    """Read (step, values) of each name from the written metrics; rates of all groups count as one name."""
    found: dict[str, dict[int, set[float]]] = {}
    for path in Path(folder).rglob("metrics.csv"):
        with path.open() as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    name = "lr" if key.startswith("lr") else key
                    if value and key != "step":
                        found.setdefault(name, {}).setdefault(int(row["step"]), set()).add(float(value))
    return {name: sorted(values.items()) for name, values in found.items()}
