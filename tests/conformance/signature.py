"""The cases of the signature test; run as a program, it trains all of them on every process.

One update of N processes with batches of B / N is one update of N accumulated micro-batches of B / N and of one process
with a batch of B.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from os import environ
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam
from torchjd.aggregation import UPGrad

from mtl_lightning.balancing import Balancer, UncertaintyWeighting
from mtl_lightning.types import Batch, ConfigurationError
from tests.helpers import fit, make_batches, make_module, with_gaps

UPDATES, ROWS = 10, 24  # two processes halve them, and some balancers cut these halves into 2 or 3 parts
BALANCERS: dict[str, Any] = {
    "sum": Balancer,
    "uncertainty": UncertaintyWeighting,
    "uncertainty from the first batch": partial(UncertaintyWeighting, init="first_batch"),
    "UPGrad": UPGrad(),
}
OPTIMIZERS: dict[str, Any] = {"SGD": partial(SGD, lr=0.02, momentum=0.9), "Adam": partial(Adam, lr=1e-3)}
SHARDED = [("sum", "Adam", "32-true"), ("uncertainty", "SGD", "32-true"), ("uncertainty", "Adam", "32-true")]
CASES = [(b, o, precision) for b in BALANCERS for o in OPTIMIZERS for precision in ("64-true", "32-true")]


def batches() -> list[Batch]:
    """Ten batches with labels missing unevenly: more in the first half of the rows than in the second."""
    made = make_batches(UPDATES, ROWS)
    first, second = (with_gaps(split(made, part, 2), seed=part, share=share) for part, share in ((0, 0.5), (1, 0.1)))
    return [join(a, b) for a, b in zip(first, second, strict=True)]


def split(whole: list[Batch], part: int, parts: int) -> list[Batch]:
    """Rows ``part::parts`` of each batch."""

    def cut(batch: Batch) -> Batch:
        targets = {name: target[part::parts] for name, target in batch["targets"].items()}
        return {"inputs": batch["inputs"][part::parts], "targets": targets}

    return [cut(batch) for batch in whole]


def join(a: Batch, b: Batch) -> Batch:
    """The rows of two batches, in turn."""

    def woven(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x, y], dim=1).flatten(0, 1)

    targets = {name: woven(a["targets"][name], b["targets"][name]) for name in a["targets"]}
    return {"inputs": woven(a["inputs"], b["inputs"]), "targets": targets}


def train(case: tuple[str, str, str], data: list[Batch], **trainer: Any) -> dict[str, Tensor]:
    """The weights after training on these batches; learned weights of the balancer included."""
    balancer, optimizer, precision = case
    if precision == "32-true":
        data = [single(batch) for batch in data]
    options = {"default": OPTIMIZERS[optimizer], "balancer": partial(OPTIMIZERS[optimizer].func, lr=0.01)}
    module = make_module(balancer=BALANCERS[balancer], optimizers=options, reads={"kind": ["number"]})
    fit(module, data, precision=precision, **trainer)
    whole = ((name, p.full_tensor() if isinstance(p, DTensor) else p) for name, p in module.named_parameters())
    return {name: parameter.detach().clone() for name, parameter in whole}


def single(batch: Batch) -> Batch:
    """A batch in float32."""

    def lower(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() else tensor

    return {"inputs": lower(batch["inputs"]), "targets": {n: lower(t) for n, t in batch["targets"].items()}}


def main(folder: str) -> None:
    """Train every case on this process's half of the rows, and save what each process ends with."""
    rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    part = split(batches(), rank, world)
    options = {"devices": world, "use_distributed_sampler": False}
    ended: dict[Any, Mapping[str, Tensor] | str] = {}  # sharded cases by a name, the others by the case itself
    for case in CASES:
        ended[case] = train(case, part, strategy=DDPStrategy(process_group_backend="gloo"), **options)
    for case in SHARDED:
        strategy = ModelParallelStrategy(world, 1, process_group_backend="gloo")
        ended["-".join(case)] = train(case, part, strategy=strategy, **options)
    try:
        strategy = ModelParallelStrategy(world, 1, process_group_backend="gloo")
        train(("UPGrad", "Adam", "32-true"), part, strategy=strategy, **options)
    except ConfigurationError as error:
        ended["refused"] = str(error)
    torch.save(ended, f"{folder}/rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
