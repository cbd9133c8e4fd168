"""Two processes that share one device, over gloo; run as a program, each saves what it ends with."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy

from mtl_lightning.balancing import UncertaintyWeighting, UPGrad
from mtl_lightning.types import Batch
from tests.conformance.signature import split
from tests.gpu.training import state, trained
from tests.helpers import make_batches, with_gaps

BALANCERS: dict[str, Any] = {"uncertainty": UncertaintyWeighting, "UPGrad": UPGrad}


def data(rank: int = 0, world: int = 1) -> list[Batch]:
    """A process's rows; labels are missing unevenly."""
    return split(with_gaps(make_batches(6, rows=12), share=0.2), rank, world)


def ended(device: str, balancer: str, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """The parameters after two epochs."""
    trainer: dict[str, Any] = {}
    if world > 1:  # each process is a node with one device, which for both is the first
        strategy = DDPStrategy(process_group_backend="gloo")
        trainer = {"strategy": strategy, "devices": 1, "num_nodes": world, "use_distributed_sampler": False}
    module = trained(device, BALANCERS[balancer], "MMoE without norms", trainer=trainer, data=data(rank, world))
    return {name: value for name, value in state(module).items() if name in dict(module.named_parameters())}


def main(folder: str, device: str) -> None:
    """Train with every balancer."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ.update(NODE_RANK=str(rank), LOCAL_RANK="0")
    os.chdir(folder)
    found = {name: ended(device, name, rank, world) for name in BALANCERS}
    torch.save(found, f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
