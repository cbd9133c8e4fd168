"""The training loops that gradient methods are compared by: ours, and torchjd called by hand.

All train the same network from the same weights with a fused Adam. The floor is ``MultiTaskModule`` with equal weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.optim import Adam
from torchjd import aggregation
from torchjd.aggregation import Aggregator
from torchjd.autojac import jac_to_grad, mtl_backward

from benchmarks.loops import on, ours, raw
from benchmarks.timing import TimedBatches, Variant
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning import balancing
from mtl_lightning.balancing import DWA, FAMO, MGDA, Balancer, UncertaintyWeighting, UPGrad
from mtl_lightning.balancing.build import BalancerArgument
from mtl_lightning.types import Batch

EQUAL = "equal weights"
RAW = "equal weights, raw loop"
FORWARD = "no backward, raw loop"
FEATURES = ", level features"
"""Ends the names of methods at the level of features."""

LOSSES: Mapping[str, BalancerArgument] = {cls.__name__: cls for cls in (UncertaintyWeighting, DWA, FAMO)}
GRADIENTS: Mapping[str, type[Balancer]] = {
    name: cls
    for name, cls in ((name, getattr(balancing, name)) for name in balancing.__all__)
    if inspect.isclass(cls) and issubclass(cls, Balancer) and cls.rows and not inspect.isabstract(cls)
}
"""Every exported method that combines gradients, with its defaults."""
RIVALS: Mapping[str, Callable[[int], Aggregator]] = {
    "MGDA": lambda _: aggregation.MGDA(),
    "PCGrad": lambda _: aggregation.PCGrad(),
    "UPGrad": lambda _: aggregation.UPGrad(),
    "IMTLG": lambda _: aggregation.IMTLG(),
    "AlignedMTL": lambda _: aggregation.AlignedMTL(),
    "CAGrad": lambda _: aggregation.CAGrad(0.5),
    "NashMTL": aggregation.NashMTL,
}
"""What torchjd has of these, made from the number of tasks."""

CASES: dict[str, Workload] = {
    **{
        f"W1_T{tasks}": Workload(first.input_shape, first.rows, tasks, first.encoder, first.head)
        for first in [WORKLOADS["W1_T8"]]
        for tasks in (2, 8, 32, 128)
    },
    "W2": WORKLOADS["W2"],
    "W3": WORKLOADS["W3"],
}


@dataclass(frozen=True)
class Loops:
    """The loops on one workload.

    Attributes:
        ours: by method, of ``MultiTaskModule``.
        theirs: by method, with torchjd.
        raw: equal weights without Lightning, and what tells the time of a backward.
    """

    ours: dict[str, Variant]
    theirs: dict[str, Variant]
    raw: dict[str, Variant]

    @property
    def all(self) -> dict[str, Variant]:
        """All of them but the floor, by unique names."""
        return {**self.raw, **self.ours, **{rival(name): loop for name, loop in self.theirs.items()}}


def rival(method: str) -> str:
    """Return the name of torchjd's loop of a method."""
    return f"{method}, torchjd"


def names() -> list[str]:
    """Return the methods that can be asked for."""
    return [*LOSSES, *GRADIENTS, f"MGDA{FEATURES}", f"UPGrad{FEATURES}"]


def loops(workload: Workload, methods: Sequence[str]) -> Loops:
    """Return the loops of some methods, without those of torchjd whose solver is not installed."""
    features = {f"{cls.__name__}{FEATURES}": partial(cls, level="features") for cls in (MGDA, UPGrad)}
    every: dict[str, BalancerArgument] = {**LOSSES, **GRADIENTS, **features}
    theirs: dict[str, Variant] = {}
    for name in methods:
        if name in RIVALS:
            try:
                RIVALS[name](workload.num_tasks)
            except ImportError:
                continue
            theirs[name] = partial(by_torchjd, workload, RIVALS[name])
    return Loops(
        {name: partial(ours, workload, balancer=every[name]) for name in methods},
        theirs,
        {
            RAW: partial(raw, workload, fused=True),
            FORWARD: partial(no_backward, workload),
        },
    )


def floor(workload: Workload) -> Variant:
    """Return the loop of equal weights."""
    return partial(ours, workload, balancer=Balancer)


def by_torchjd(
    workload: Workload, make: Callable[[int], Aggregator], batches: TimedBatches, *, device: str = "cpu"
) -> None:
    """Train with one of torchjd's aggregators, without Lightning, as its documentation shows it.

    One backward after the other (``parallel_chunk_size=1``), which is its faster way on a CPU.
    """
    torch.manual_seed(0)
    network, aggregator = workload.network().to(device), make(workload.num_tasks)
    optimizer = Adam(network.parameters(), lr=1e-3, fused=True)
    shared, heads = list(network.trunk.parameters()), [list(head.parameters()) for head in network.heads.values()]
    for batch in on(device, batches):
        optimizer.zero_grad()
        features = network.trunk(batch["inputs"])
        outputs = {name: head(features) for name, head in network.heads.items()}
        losses = workload.losses(outputs, batch["targets"])
        mtl_backward(losses, features=features, tasks_params=heads, shared_params=shared, parallel_chunk_size=1)
        jac_to_grad(shared, aggregator)
        optimizer.step()


def no_backward(workload: Workload, batches: Iterable[Batch]) -> None:
    """Do all that ``raw`` does but the backward: the gradients are always the same."""
    torch.manual_seed(0)
    network = workload.network()
    optimizer = Adam(network.parameters(), lr=1e-3, fused=True)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    for batch in batches:
        torch.stack(workload.losses(network(batch["inputs"]), batch["targets"])).sum()
        optimizer.step()
