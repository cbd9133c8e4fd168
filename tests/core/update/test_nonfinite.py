"""Losses and gradients that are inf or nan: refused by name, skipped without a trace, or ignored."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR

from mtl_lightning import MultiTaskModule, NonFiniteError, Schedule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.types import Batch
from tests.core.test_counting import axis
from tests.core.update.test_absent import Snapshots
from tests.helpers import fit, make_batches, make_module, weights_of

BATCHES = make_batches(4)
OPTIMIZERS = {"default": partial(AdamW, lr=0.01, weight_decay=0.1)}


def with_inputs(batch: Batch, value: float) -> Batch:
    return {**batch, "inputs": torch.full_like(batch["inputs"], value)}


def with_number(batch: Batch, value: float) -> Batch:
    return {**batch, "targets": {**batch["targets"], "number": torch.full_like(batch["targets"]["number"], value)}}


LOST = [BATCHES[0], BATCHES[1], with_inputs(BATCHES[2], torch.nan), BATCHES[3]]
HUGE = [BATCHES[0], BATCHES[1], with_number(BATCHES[2], 1e200), BATCHES[3]]  # its square is inf


class Breaking(nn.Linear):
    """A head whose output is finite and whose gradient is not, where the input is large."""

    def forward(self, features: Tensor) -> Tensor:
        (broken,) = features.shape[:1]
        root = torch.sqrt(super().forward(features) * 0)  # the derivative of a root is infinite at 0
        return super().forward(features) + root[:broken]


# ---------------------------------------------------------------------------------------------------------------- raise
def test_everything_is_named_when_the_inputs_are_nan() -> None:
    message = (
        r"Update 3: expected finite gradients, .* in the groups \['shared', 'number', 'vector', 'kind'\]; the loss"
        r" or the gradient of \['number', 'vector', 'kind'\] is not finite\..*`gradient_clip`.*`on_nonfinite: skip`"
    )
    with pytest.raises(NonFiniteError, match=message):
        fit(make_module(), LOST)


def test_the_task_with_an_infinite_loss_is_named() -> None:
    found = r"in the groups \['shared', 'number'\]; the loss or the gradient of \['number'\] is not finite"
    message = rf"Update 3: .* {found}"
    with pytest.raises(NonFiniteError, match=message):
        fit(make_module(), HUGE)


def test_the_task_with_an_infinite_gradient_is_named() -> None:
    module = make_module(heads={"kind": lambda size, outputs: Breaking(size[0], outputs)})
    message = r"Update 1: .* in the groups \['shared', 'kind'\]; the loss or the gradient of \['kind'\] is not finite"
    with pytest.raises(NonFiniteError, match=message):
        fit(module, BATCHES)


def test_groups_are_named_as_they_are_configured() -> None:
    module = make_module(groups={"all": ["*"]}, balancer=UncertaintyWeighting)
    with pytest.raises(NonFiniteError, match=r"in the groups \['all'\]; the loss or the gradient of \['number'\]"):
        fit(module, HUGE)


def test_nothing_moves_before_the_error() -> None:
    module = make_module(optimizers=OPTIMIZERS)
    with pytest.raises(NonFiniteError):
        fit(module, HUGE)
    other = make_module(optimizers=OPTIMIZERS)
    fit(other, HUGE[:2])
    for name, weight in weights_of(module).items():
        assert torch.equal(weight, weights_of(other)[name])


# ----------------------------------------------------------------------------------------------------------------- skip
@pytest.mark.parametrize("batches", [LOST, HUGE], ids=["nan inputs", "infinite loss"])
def test_a_skipped_update_leaves_no_trace(batches: list[Any]) -> None:
    module = make_module(
        balancer=UncertaintyWeighting, optimizers=OPTIMIZERS, on_nonfinite="skip", gradient_clip={"shared": 1.0}
    )
    snapshots = Snapshots()
    trainer = fit(module, batches, callbacks=[snapshots], gradient_clip_val=1.0)
    everything = {name for name, _ in module.named_parameters()}
    assert [snapshots.moved(index) for index in range(4)] == [everything, everything, set(), everything]
    assert snapshots.updates == [0, 1, 2, 3, 4]  # counted all the same
    assert module.updates.skipped == 1
    assert trainer.global_step == 4
    assert all(torch.isfinite(weight).all() for weight in weights_of(module).values())


def test_a_skipped_update_is_as_if_its_batch_were_not_there() -> None:
    skipping, without = (make_module(optimizers=OPTIMIZERS, on_nonfinite="skip") for _ in range(2))
    fit(skipping, LOST, max_epochs=2)
    fit(without, [*LOST[:2], LOST[3]], max_epochs=2)
    assert (skipping.updates.skipped, without.updates.skipped) == (2, 0)
    for name, weight in weights_of(skipping).items():
        assert torch.equal(weight, weights_of(without)[name])


class Watching(UncertaintyWeighting):
    """Counts what it is told."""

    told = 0

    def after_update(self, losses: Any) -> None:
        super().after_update(losses)
        self.told += 1


def test_the_balancer_is_not_told_of_a_skipped_update() -> None:
    module = make_module(balancer=Watching, on_nonfinite="skip")
    fit(module, LOST)
    assert isinstance(module.balancer, Watching)
    assert module.balancer.told == 3


def test_log_variances_that_start_from_losses_wait_for_finite_ones() -> None:
    module = make_module(balancer=partial(UncertaintyWeighting, init="first_batch"), on_nonfinite="skip")
    fit(module, LOST[2:])
    assert isinstance(module.balancer, UncertaintyWeighting)
    assert module.updates.skipped == 1
    assert module.balancer.started.all()
    assert all(torch.isfinite(s) for s in module.balancer.log_vars)


def test_schedules_by_update_go_on() -> None:
    schedules = {"default": Schedule(partial(StepLR, step_size=1), interval="step")}
    module = make_module(on_nonfinite="skip", schedulers=schedules, optimizers=OPTIMIZERS)
    trainer = fit(module, LOST)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**4)


def test_skipped_updates_are_recorded_and_saved() -> None:
    module = make_module(on_nonfinite="skip")
    callbacks = [ModelCheckpoint("saved", filename="model"), LearningRateMonitor()]
    trainer = fit(module, LOST, max_epochs=2, logger=CSVLogger("."), log_every_n_steps=1, callbacks=callbacks)
    assert [count for _, count in axis(trainer, "train/skipped")] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert torch.load("saved/model.ckpt", weights_only=True)["mtl_lightning"]["processes"][0]["updates"]["skipped"] == 2


def test_a_run_that_skips_nothing_is_the_same_as_one_that_would_raise() -> None:
    runs = [make_module(optimizers=OPTIMIZERS, on_nonfinite=choice) for choice in ("raise", "skip", "ignore")]
    for module in runs:
        fit(module, BATCHES)
    for name, weight in weights_of(runs[0]).items():
        assert torch.equal(weight, weights_of(runs[1])[name])
        assert torch.equal(weight, weights_of(runs[2])[name])


# --------------------------------------------------------------------------------------------------------------- ignore
def test_ignoring_goes_on_with_what_comes() -> None:
    module = make_module(on_nonfinite="ignore")
    trainer = fit(module, LOST)
    assert trainer.global_step == 4
    assert any(weight.isnan().any() for weight in weights_of(module).values())
    assert module.updates.skipped == 0


# ----------------------------------------------------------------------------------------------- with a gradient scaler
@pytest.mark.parametrize("choice", ["raise", "skip"])
def test_a_gradient_scalers_overflows_are_no_error(choice: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    module = make_module(balancer=UncertaintyWeighting, optimizers=OPTIMIZERS, on_nonfinite=choice)
    snapshots = Snapshots()
    batches = [{**b, "inputs": b["inputs"].float(), "targets": {"kind": b["targets"]["kind"]}} for b in LOST]
    module.labels.allowed = ["number", "vector"]
    seen: list[Any] = []

    class Looking(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
            seen.append(pl_module.runtime.scaler.get_scale())

    fit(module, batches, callbacks=[snapshots, Looking()], plugins=[plugin], precision=None)
    assert isinstance(module, MultiTaskModule)
    assert seen == [1024, 1024, 512, 512]
    assert snapshots.moved(2) == set()
    assert snapshots.moved(3) != set()
    assert snapshots.updates[-1] == 4
    assert module.updates.skipped == (choice == "skip")
