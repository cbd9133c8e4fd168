"""A dataset, a module and a trainer that are just large enough to see which batches a training gets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset


class NoisyRows(Dataset[Any]):
    """A user's own map dataset: row r has input r, and noise drawn from each of the three global random states."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> dict[str, Any]:
        noise = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return {
            "inputs": torch.tensor([float(row)]),
            "targets": {"number": 2.0 * row, "parity": row % 2},
            "noise": torch.tensor(noise),
        }


class Witness(LightningModule):
    """Notes the epoch, rows and noise of every batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(1, 1)
        self.trained: list[Any] = []
        self.validated: list[Any] = []

    def noted(self, batch: Any) -> tuple[Any, ...]:
        noise = batch.get("noise", torch.zeros(0))
        return self.current_epoch, tuple(batch["inputs"][:, 0].tolist()), tuple(noise.flatten().tolist())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.trained.append(self.noted(batch))
        loss: Tensor = self.map(batch["inputs"] / 100).square().mean()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(self.noted(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows: Tensor = batch["inputs"][:, 0]
        return rows

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """A trainer on the CPU that writes nothing but the checkpoints it is asked for."""
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    checkpoints = {} if "callbacks" in options else {"enable_checkpointing": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **{**silent, **checkpoints, **options})
