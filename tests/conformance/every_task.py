"""Every task with labels by the row, all in one network; run as a program, it trains them on every process."""

from __future__ import annotations

import sys
from os import environ
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from mtl_lightning.balancing import Balancer, UncertaintyWeighting
from mtl_lightning.tasks.rows import RowTask
from mtl_lightning.types import Batch
from tests.conformance.signature import OPTIMIZERS, split
from tests.contracts.task_cases import CASES, Case, without_labels
from tests.helpers import INPUTS, fit, make_module, weights_of

UPDATES, ROWS = 4, 24
BALANCERS: dict[str, Any] = {"sum": Balancer, "uncertainty": UncertaintyWeighting}


def row_cases() -> dict[str, Case]:
    """One of the contract's cases of each class, shape and options, by names that tasks can have."""
    found: dict[Any, tuple[str, Case]] = {}
    for param in CASES:
        case: Case = param.values[0]
        if case.can_miss and issubclass(case.cls, RowTask) and len(case.spec.shape) < 2 and not param.marks:
            known = (case.cls, case.spec.shape, str(case.options))
            found.setdefault(known, (str(param.id).replace(".", "_"), case))
    return dict(found.values())


def batches() -> list[Batch]:
    """Batches with labels missing unevenly: more in the even rows than in the odd ones, and those in their own way."""
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    made: list[Batch] = []
    share = torch.tensor([0.5, 0.1]).repeat(ROWS // 2)
    for _ in range(UPDATES):
        targets = {}
        for name, case in row_cases().items():
            missing = torch.rand(ROWS, generator=random) < share
            target = without_labels(case.target(ROWS), missing)
            targets[name] = target.double() if target.is_floating_point() else target
        made.append({"inputs": torch.randn(ROWS, INPUTS, generator=random).double(), "targets": targets})
    return made


def train(balancer: str, data: list[Batch], **trainer: Any) -> dict[str, Tensor]:
    """The weights after training on these batches."""
    tasks = {name: case.task() for name, case in row_cases().items()}
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh())
    module = make_module(
        tasks=tasks, architecture=network, balancer=BALANCERS[balancer], optimizers={"default": OPTIMIZERS["SGD"]}
    )
    fit(module, data, **trainer)
    return weights_of(module)


def main(folder: str) -> None:
    """Train with every balancer on this process's half of the rows, and save what each process ends with."""
    rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    part = split(batches(), rank, world)
    options: dict[str, Any] = {"devices": world, "use_distributed_sampler": False}
    ended = {
        name: train(name, part, strategy=DDPStrategy(process_group_backend="gloo"), **options) for name in BALANCERS
    }
    torch.save(ended, f"{folder}/rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
