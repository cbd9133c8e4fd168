"""Runs with a gradient that is inf or nan, in every way of looking for it; as a program, on several processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import SGD, Adagrad, AdamW, NAdam, Optimizer, RMSprop

from mtl_lightning import MultiTaskModule, NonFiniteError
from mtl_lightning.balancing import (
    DWA,
    FAMO,
    IMTLG,
    MGDA,
    Balancer,
    EMANormalization,
    GradNorm,
    PCGrad,
    UncertaintyWeighting,
)
from mtl_lightning.core import host_number
from mtl_lightning.core.network.fast_paths import VARIABLE
from mtl_lightning.core.update import record
from mtl_lightning.core.update.nonfinite import FiniteCheck
from mtl_lightning.types import Batch
from tests.conformance.signature import split
from tests.helpers import fit, make_batches, make_module, with_gaps


class Sign(Optimizer):
    """A user's optimizer, which counts its steps in Python."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})
        self.steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # as users write it
        """Go one step against the sign, a shorter one each time."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.steps += 1
                    parameter.data -= group["lr"] / self.steps * parameter.grad.sign()


class Counting(UncertaintyWeighting):
    """A user's balancer, which counts updates in Python."""

    told = 0

    def after_update(self, losses: Any) -> None:
        super().after_update(losses)
        self.told += 1


OPTIMIZERS: dict[str, Any] = {
    "fused": partial(AdamW, lr=0.02, weight_decay=0.1),
    "amsgrad": partial(AdamW, lr=0.02, amsgrad=True, fused=True),
    "not fused": partial(AdamW, lr=0.02, fused=False),
    "SGD": partial(SGD, lr=0.05),
    "SGD momentum": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "SGD not fused": partial(SGD, lr=0.05, momentum=0.9, fused=False),
    "Adagrad": partial(Adagrad, lr=0.05),
    "NAdam": partial(NAdam, lr=0.01),
    "RMSprop": partial(RMSprop, lr=0.01, momentum=0.5, centered=True),
    "user's": Sign,
}
BALANCERS: dict[str, Any] = {
    "sum": Balancer,
    "uncertainty": UncertaintyWeighting,
    "first batch": partial(UncertaintyWeighting, init="first_batch"),
    "FAMO": FAMO,
    "EMA": EMANormalization,
    "DWA": DWA,
    "counting": Counting,
    "IMTLG": IMTLG,
    "IMTLG features": partial(IMTLG, level="features"),
    "IMTLG of FAMO": partial(IMTLG, losses=FAMO, level="last_layer"),
    "GradNorm": GradNorm,
    "MGDA": MGDA,
    "PCGrad": PCGrad,
}
WAYS = ("at once", "on the host", "on the device")
BATCHES = 12


def with_bad(value: float, *places: int) -> list[Batch]:
    """Batches with gaps; some with inputs of inf or nan, or a target whose square is inf."""
    batches = with_gaps(make_batches(BATCHES, rows=12), share=0.2)
    for place in places:
        if value == value and abs(value) != torch.inf:
            number = torch.full_like(batches[place]["targets"]["number"], value)
            batches[place] = {**batches[place], "targets": {**batches[place]["targets"], "number": number}}
        else:
            batches[place] = {**batches[place], "inputs": torch.full_like(batches[place]["inputs"], value)}
    return batches


@contextmanager
def looking(way: str) -> Iterator[None]:
    """Look at norms at once, as for updates that are recorded; as on the CPU; or as on a GPU.

    Callbacks of tests read no metrics, for which all updates would be recorded.
    """
    readers: Callable[..., bool] = record.has_readers
    record.has_readers = lambda trainer: trainer is None
    look: Callable[..., None] = FiniteCheck.look
    if way == "at once":
        FiniteCheck.look = lambda *args, **options: look(*args, **{**options, "at_once": True})  # type: ignore[method-assign]
    host_number.ALWAYS_WAITS = way == "on the device"
    try:
        yield
    finally:
        FiniteCheck.look = look  # type: ignore[method-assign]
        host_number.ALWAYS_WAITS = False
        record.has_readers = readers


class Saver(Callback):
    """Saves after some batch."""

    def __init__(self, batch: int, path: str) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.path)


def ended(
    way: str,
    batches: list[Batch],
    optimizer: str = "fused",
    balancer: str = "uncertainty",
    policy: str = "skip",
    trainer: dict[str, Any] | None = None,
    ckpt_path: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train, looking in some way; return all that it ends with."""
    made = {"optimizers": {"default": OPTIMIZERS[optimizer]}, "balancer": BALANCERS[balancer], "on_nonfinite": policy}
    module = make_module(**{**made, **options})
    error = ""
    with looking(way):
        try:
            fit(module, batches, ckpt_path=ckpt_path, **{"log_every_n_steps": 0, **(trainer or {})})
        except NonFiniteError as found:
            error = str(found)
    return {
        "error": error,
        "skipped": module.updates.skipped,
        "weights": {
            name: tensor.clone() for name, tensor in module.state_dict().items() if isinstance(tensor, torch.Tensor)
        },
        "rest": repr(
            {name: value for name, value in module.state_dict().items() if not isinstance(value, torch.Tensor)}
        ),
        "optimizer": states_of(module),
        "told": getattr(module.balancer, "told", None),
    }


def states_of(module: MultiTaskModule) -> dict[str, torch.Tensor]:
    """Return the optimizers' states by name."""
    found = {}
    for index, state in module.trainer.optimizers[0].state_dict()["state"].items():
        for name, value in state.items():
            found[f"{index} {name}"] = torch.as_tensor(torch.nan if value is None else value).clone()
    return found


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two runs ended alike, bit for bit."""
    for part in ("weights", "optimizer"):
        if list(found[part]) != list(expected[part]):
            return False
        if not all(
            torch.equal(one.nan_to_num(-7), expected[part][name].nan_to_num(-7)) for name, one in found[part].items()
        ):
            return False
    return all(found[part] == expected[part] for part in ("error", "skipped", "rest", "told"))


ON_TWO = [
    ("fused", "uncertainty", "skip", 1),
    ("fused", "uncertainty", "raise", 2),
    ("not fused", "EMA", "skip", 2),
    ("SGD momentum", "IMTLG", "raise", 1),
    ("fused", "IMTLG features", "skip", 1),
    ("user's", "sum", "skip", 1),
]
"""Optimizer, balancer, policy and batches of an update."""


def main(folder: str) -> None:
    """Train all cases in all ways on two processes; the second one's rows alone are bad."""
    os.environ.pop(VARIABLE, None)
    rank, found = int(os.environ["RANK"]), {}
    batches = split(with_bad(torch.nan, 5), rank, 2) if rank else split(with_bad(1.0), rank, 2)
    for optimizer, balancer, policy, accumulate in ON_TWO:
        for way in WAYS:
            options = {"strategy": DDPStrategy(process_group_backend="gloo"), "devices": 2}
            options |= {"use_distributed_sampler": False, "accumulate_grad_batches": accumulate}
            ending = ended(way, batches, optimizer, balancer, policy, options)
            found[optimizer, balancer, policy, accumulate, way] = ending
    torch.save(found, Path(folder) / f"rank{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
