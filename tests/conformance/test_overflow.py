"""An inf in one task's gradient: under a gradient scaler, under ``skip``, and under ``raise``, which names the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torchjd.aggregation import UPGrad

from mtl_lightning import MultiTaskModule, NonFiniteError
from mtl_lightning.architectures import Linear
from mtl_lightning.balancing import Balancer, UncertaintyWeighting
from tests.core.saved import single
from tests.core.test_absent import Snapshots
from tests.helpers import fit, make_batches, make_module

BATCHES = make_batches(5)
BAD = 2  # the update whose gradient overflows
BALANCERS = {"sum": Balancer, "uncertainty": UncertaintyWeighting, "UPGrad": UPGrad()}
each_balancer = pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS)


class Injecting(nn.Module):
    """A linear head that multiplies one gradient by inf in the update ``BAD``: of its output, or of its input alone."""

    trainer: Any = None

    def __init__(self, size: int, outputs: int, where: str) -> None:
        super().__init__()
        self.linear, self.where = nn.Linear(size, outputs), where

    def forward(self, features: Tensor) -> Tensor:
        if self.where == "input":
            self.break_gradient(features := features * 1.0)
        output: Tensor = self.linear(features) * 1.0
        if self.where == "output":
            self.break_gradient(output)
        return output

    def break_gradient(self, tensor: Tensor) -> None:
        if tensor.requires_grad:
            factor = torch.inf if self.trainer.global_step == BAD else 1.0
            tensor.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]  # torch's


class Watching(Callback):
    """Gives the head the trainer, and notes the scale after each batch."""

    def __init__(self) -> None:
        self.scales: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.heads["kind"].trainer = trainer

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.scaler is not None:
            self.scales.append(trainer.scaler.get_scale())


def injecting(balancer: Any, where: str = "output", **options: Any) -> MultiTaskModule:
    heads = {"default": Linear, "kind": lambda size, outputs: Injecting(size[0], outputs, where)}
    return make_module(balancer=balancer, heads=heads, **options)


@each_balancer
@pytest.mark.parametrize("choice", ["raise", "skip", "ignore"])
@pytest.mark.parametrize("where", ["output", "input"])
def test_a_gradient_scaler_skips_the_update_of_every_group(balancer: Any, where: str, choice: str) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8))
    module = injecting(balancer, where, on_nonfinite=choice)
    snapshots, watching = Snapshots(), Watching()
    trainer = fit(module, single(BATCHES), precision=None, plugins=[plugin], callbacks=[watching, snapshots])
    assert trainer.scaler is not None
    everything = {name for name, _ in module.named_parameters()}
    assert [snapshots.moved(index) for index in range(5)] == [everything if i != BAD else set() for i in range(5)]
    assert watching.scales == [256, 256, 128, 128, 128]
    assert snapshots.updates == [0, 1, 2, 3, 4, 5]
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


@each_balancer
@pytest.mark.parametrize("where", ["output", "input"])
def test_skip_without_a_scaler(balancer: Any, where: str) -> None:
    module = injecting(balancer, where, on_nonfinite="skip")
    snapshots = Snapshots()
    fit(module, single(BATCHES), precision="32-true", callbacks=[Watching(), snapshots])
    everything = {name for name, _ in module.named_parameters()}
    assert [snapshots.moved(index) for index in range(5)] == [everything if i != BAD else set() for i in range(5)]
    assert snapshots.updates == [0, 1, 2, 3, 4, 5]
    assert module.updates.skipped == 1


@each_balancer
@pytest.mark.parametrize("where", ["output", "input"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_task_is_named(balancer: Any, where: str, accumulate: int) -> None:
    module = injecting(balancer, where)
    message = r"Update 3: .* the loss or the gradient of \['kind'\] is not finite"
    with pytest.raises(NonFiniteError, match=message):
        fit(
            module,
            single(make_batches(6)),
            precision="32-true",
            callbacks=[Watching()],
            accumulate_grad_batches=accumulate,
        )
