"""Every balancer on two processes; run as a program, it trains some of them, or the others, on every process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Hashable
from functools import partial
from itertools import product
from os import environ
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import SGD

from mtl_lightning.types import Batch
from tests.conformance.signature import batches, join, single, split
from tests.contracts.balancer_cases import CASES, Case
from tests.cover import cover
from tests.helpers import fit, make_module

UPDATES, TASKS = 5, 3
BY_NAME = {case.name: case for case in CASES}
PRECISIONS = {"64-true": 1e-8, "32-true": 1e-5}


ALL = [*product(BY_NAME, PRECISIONS)]


def goals(case: tuple[str, str]) -> set[Hashable]:
    """Every balancer in some precision; ours by method, torchjd's by kind, and all forms in both precisions."""
    name, precision = case
    method, _, form = name.partition("-")
    kind = method if BY_NAME[name].ours else method.rpartition(".")[0]
    return {name, (kind, precision), (form, precision)}


COVER = [ALL[index] for index in cover(ALL, goals)]
CHOICES = {"cover": COVER, "rest": [case for case in ALL if case not in COVER]}


def parts(rank: int, world: int) -> list[Batch]:
    """This process's rows of five batches; `kind` has no label in the second, on one process none in the fourth."""
    data = batches()[:UPDATES]
    data[1]["targets"]["kind"] = torch.full_like(data[1]["targets"]["kind"], -100)
    data[3]["targets"]["kind"][0::2] = -100
    return split(data, rank, world)


def fully_labelled(rank: int, world: int) -> list[Batch]:
    """The same, with every task present in each batch: for methods of torchjd that refuse anything else."""
    return split(batches()[:UPDATES], rank, world)


def data_of(case: Case, rank: int = 0, world: int = 1) -> list[Batch]:
    """What a case is trained on."""
    return parts(rank, world) if case.ours else fully_labelled(rank, world)


def micro_batches(case: Case) -> list[Batch]:
    """The rows of two processes one after the other, to be accumulated."""
    pairs = zip(data_of(case, 0, 2), data_of(case, 1, 2), strict=True)
    return [half for pair in pairs for half in pair]


def train(name: str, precision: str, data: list[Batch], **trainer: Any) -> dict[str, Tensor]:
    """The weights and the balancer's state after training on these batches."""
    if precision == "32-true":
        data = [single(batch) for batch in data]
    options = {"default": partial(SGD, lr=0.02, momentum=0.9), "balancer": partial(SGD, lr=0.01)}
    case = BY_NAME[name]
    module = make_module(balancer=partial(_made, case), optimizers=options, reads={"kind": ["number"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, data, precision=precision, **trainer)
    state = module.state_dict().items()
    return {key: value.detach().clone() for key, value in state if isinstance(value, Tensor)}


def _made(case: Case, tasks: int) -> Any:
    return case.make(tasks, seed=3)


def main(folder: str, choice: str) -> None:
    """Train the chosen cases on this process's half of the rows, and save what each process ends with."""
    rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    ended: dict[Any, Any] = {}
    for name, precision in CHOICES[choice]:
        strategy = DDPStrategy(process_group_backend="gloo")
        options: dict[str, Any] = {"strategy": strategy, "devices": world, "use_distributed_sampler": False}
        ended[name, precision] = train(name, precision, data_of(BY_NAME[name], rank, world), **options)
    torch.save(ended, f"{folder}/rank{rank}-{choice}.pt")


__all__ = ["CASES", "join", "main", "micro_batches", "train"]

if __name__ == "__main__":
    main(*sys.argv[1:])
