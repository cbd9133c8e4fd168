"""What is asked of a trainer beside its strategy; run as a program, it trains all cases on every process."""

from __future__ import annotations

import sys
from functools import partial
from os import environ
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from mtl_lightning.architectures import MLP, LearningToBranch
from mtl_lightning.types import Batch, ConfigurationError
from tests.conformance.signature import batches, split, train
from tests.helpers import fit, loader_of, make_module

OPTIONS: dict[str, dict[str, Any]] = {
    "static graph": {"static_graph": True},
    "unused parameters are looked for": {"find_unused_parameters": True},
    "accumulation and clipping": {"accumulate_grad_batches": 3, "gradient_clip_val": 0.3},
    "clipping by value": {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    "max_steps": {"max_steps": 4},
}
OF_STRATEGY = {"static graph", "unused parameters are looked for"}
ABSENT = ["sum", "uncertainty", "UPGrad"]
REFUSED = [("UPGrad", 1), ("sum", 2)]
"""What ``static_graph`` is refused with: balancer, and batches of a window."""
DDP = [
    (name, b) for name in OPTIONS for b in ("sum", "uncertainty", "UPGrad") if (name, b) != ("static graph", "UPGrad")
]
BRANCHING = partial(LearningToBranch, encoder=partial(MLP, hidden=[8, 8]))
WINDOW = 3
SHARDED = ["accumulation and clipping", "max_steps"]


def with_absences() -> list[Batch]:
    """Batches of which one has no label of ``kind``, and one has ``vector`` on the second process alone."""
    data = batches()
    data[2]["targets"]["kind"] = torch.full_like(data[2]["targets"]["kind"], -100)
    data[4]["targets"]["vector"][0::2] = torch.nan
    return data


def options_of(name: str) -> dict[str, Any]:
    """What the trainer is told on one process: the strategy's own options mean nothing there."""
    return {} if name in OF_STRATEGY else OPTIONS[name]


def synchronised() -> str:
    """What a network whose BatchNorm ``sync_batchnorm`` has converted says on the CPU."""
    module = make_module(architecture=nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh()))
    strategy = DDPStrategy(process_group_backend="gloo")
    options: dict[str, Any] = {"strategy": strategy, "devices": 2, "use_distributed_sampler": False}
    try:
        fit(module, batches(), sync_batchnorm=True, **options)
    except ValueError as error:
        return str(error)
    return "trained"


def compared(rank: int = 0, world: int = 1, **options: Any) -> dict[str, torch.Tensor]:
    """What ``val/loss_normalised`` says, and the constants it compares with, of labels that a process may lack."""
    module = make_module()
    options = {"val_check_interval": 3, **options}
    trainer = fit(module, split(with_absences(), rank, world), loader_of(split(batches(), rank, world)), **options)
    assert module.trivial_predictions is not None
    return {**module.trivial_predictions, "metric": trainer.callback_metrics["val/loss_normalised"]}


def main(folder: str) -> None:
    """Train every case on this process's half of the rows, and save what each process ends with."""
    rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    part = split(batches(), rank, world)
    plan: dict[str, Any] = {"devices": world, "use_distributed_sampler": False}
    ended: dict[Any, Any] = {}
    for name, balancer in DDP:
        of_strategy = OPTIONS[name] if name in OF_STRATEGY else {}
        strategy: Any = DDPStrategy(process_group_backend="gloo", **of_strategy)
        ended[name, balancer] = train((balancer, "SGD", "64-true"), part, strategy=strategy, **plan, **options_of(name))
    for balancer in ABSENT:
        strategy = DDPStrategy(process_group_backend="gloo")
        gappy = split(with_absences(), rank, world)
        if rank == 0:
            del gappy[4]["targets"]["vector"]  # no label of it: the key may be missing as well
        ended["absent", balancer] = train((balancer, "Adam", "64-true"), gappy, strategy=strategy, **plan)
    for name in SHARDED:
        strategy = ModelParallelStrategy(world, 1, process_group_backend="gloo")
        ended[name] = train(("sum", "SGD", "32-true"), part, strategy=strategy, **plan, **options_of(name))
    for balancer, window in REFUSED:
        strategy = DDPStrategy(process_group_backend="gloo", static_graph=True)
        try:
            train((balancer, "SGD", "64-true"), part, strategy=strategy, accumulate_grad_batches=window, **plan)
        except ConfigurationError as error:
            ended["refused", balancer, window] = str(error)
    ended["compared"] = compared(rank, world, strategy=DDPStrategy(process_group_backend="gloo"), **plan)
    annealed = make_module(architecture=BRANCHING)
    strategy = DDPStrategy(process_group_backend="gloo")
    fit(annealed, part, strategy=strategy, accumulate_grad_batches=WINDOW, **plan)
    ended["annealed"] = annealed.state_dict()["architecture.seen"]
    ended["synchronised"] = synchronised()
    torch.save(ended, f"{folder}/rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
