"""Labels that several processes count on the host: what updates count and read there; as a program, on two."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import AutoLambda, UncertaintyWeighting
from mtl_lightning.core import host_group
from mtl_lightning.core.network.fast_paths import VARIABLE
from mtl_lightning.core.update import Window
from mtl_lightning.types import Batch
from tests.conformance.signature import split
from tests.core.update.host_reads import host_reads
from tests.helpers import fit, loader_of, make_batches, make_module, with_gaps

BALANCERS = {"uncertainty": UncertaintyWeighting, "AutoLambda": AutoLambda}
CHANGED = 4
"""The batch that a callback changes, on the second process."""


class Counting(MultiTaskModule):
    """Notes what updates count, and what is read for it."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.noted: list[list[dict[str, float]]] = []
        self.reads: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        found: list[str] = []
        with host_reads(found):
            made = super().training_step(batch, batch_idx)
        if batch_idx >= 2 and not self.trainer.is_last_batch:  # others are looked at more closely
            self.reads += [place for place in found if place.startswith(("window", "host_counts"))]
        return made

    def _update(self, window: Window) -> Tensor | None:
        parts = window.split(self.balancer.parts, self.tasks, self.runtime)
        self.noted.append([dict(one.counts) for one in (window, *parts)])
        return super()._update(window)


class Taking(Callback):
    """Takes labels away, on some process and in some batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == trainer.world_size - 1 and batch_idx == CHANGED:
            batch["targets"]["number"][:2] = torch.nan


def data() -> list[Batch]:
    """Batches with gaps; in the first one only the first process has labels of `kind`."""
    batches = with_gaps(make_batches(8, rows=12), share=0.2)
    batches[0]["targets"]["kind"][1::2] = -100
    return batches


def counted(balancer: str, batches: list[Batch], accumulate: int = 1, **trainer: Any) -> tuple[list[Any], list[str]]:
    """Train; return what was counted in each update, and what was read for that."""
    module = make_module(Counting, balancer=BALANCERS[balancer])
    fit(module, loader_of(batches), accumulate_grad_batches=accumulate, log_every_n_steps=0, **trainer)
    assert isinstance(module, Counting)
    return module.noted, module.reads


def main(folder: str) -> None:
    """Count every case on two processes."""
    os.environ.pop(VARIABLE, None)  # sums on the host are a fast path
    rank, backend = int(os.environ["RANK"]), host_group.backend
    found: dict[Any, Any] = {}
    for balancer in BALANCERS:
        for case in ("kept", "changed", "beside"):
            if case == "beside":  # as beside a group of NCCL
                host_group.backend = lambda: "nccl"
            options: dict[str, Any] = {"strategy": DDPStrategy(process_group_backend="gloo"), "devices": 2}
            options |= {"use_distributed_sampler": False, "callbacks": [Taking()] if case == "changed" else []}
            found[balancer, case] = counted(balancer, split(data(), rank, 2), 1 + (case == "beside"), **options)
            host_group.backend = backend
            assert (host_group.beside["group"] is None) == ("beside" not in {one for _, one in found})
    torch.save(found, Path(folder) / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
