"""Interrupted and resumed, a run ends where it would have ended: bit for bit, random numbers included."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.types import ConfigurationError
from tests.helpers import TinyData, assert_same, fit, make_module, make_trainer

EPOCHS = 4  # of 8 batches, the last of them half full
NOISY = partial(SharedBottom, encoder=partial(MLP, hidden=[8, 6], activation=nn.Tanh, dropout=0.3))
OPTIONS: dict[str, Any] = {
    "architecture": NOISY,
    "balancer": partial(UncertaintyWeighting, init="first_batch"),
    "reads": {"kind": ["number"]},
    "optimizers": {
        "shared": partial(SGD, lr=0.05, momentum=0.9),
        "number": partial(Adam, lr=0.02),
        "balancer": partial(Adam, lr=0.01),
        "default": partial(AdamW, lr=0.01),
    },
    "schedulers": {
        "shared": Schedule(partial(CosineAnnealingLR, T_max=40), interval="step"),
        "number": Schedule(partial(ReduceLROnPlateau, patience=0, factor=0.5, threshold=0.2), monitor="val/loss"),
        "kind": partial(StepLR, step_size=1, gamma=0.7),
        "vector": Schedule(partial(StepLR, step_size=3, gamma=0.7), interval="step", warmup=5),
    },
}


def build(seed: int = 0, **options: Any) -> tuple[MultiTaskModule, TinyData]:
    data = TinyData(standardize=True)
    return make_module(seed=seed, **{**OPTIONS, "tasks": data.tasks, **options}), data


def run(ckpt_path: Path | None = None, saver: Any = None, **options: Any) -> tuple[MultiTaskModule, Trainer]:
    """Train to the end, from the start or from a checkpoint with a module that began with other weights."""
    module, data = build(seed=0 if ckpt_path is None else 99)
    callbacks = [ModelCheckpoint("saved", save_top_k=-1, **saver)] if saver is not None else []
    path = None if ckpt_path is None else str(ckpt_path)
    trainer = fit(module, data, ckpt_path=path, **{"callbacks": callbacks, "max_epochs": EPOCHS, **options})
    return module, trainer


def assert_same_end(found: tuple[MultiTaskModule, Trainer], expected: tuple[MultiTaskModule, Trainer]) -> None:
    """Compare weights, buffers, optimizers, schedulers, counters and the next random number."""
    (module, trainer), (other, other_trainer) = found, expected
    assert_same(module.state_dict(), other.state_dict())
    assert (trainer.global_step, trainer.current_epoch) == (other_trainer.global_step, other_trainer.current_epoch)
    ours, theirs = (t.optimizers[0].state_dict() for t in (trainer, other_trainer))
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in theirs["state"].items():
        assert_same(ours["state"][index], state)
    schedulers = [t.lr_scheduler_configs[0].scheduler.state_dict() for t in (trainer, other_trainer)]
    assert repr(schedulers[0]) == repr(schedulers[1])


def saved() -> list[Path]:
    return sorted(Path("saved").glob("*.ckpt"), key=lambda path: int(path.stem.split("step=")[1]))


@pytest.mark.parametrize(
    "saver",
    [
        pytest.param({}, id="after the validation"),
        pytest.param({"save_on_train_epoch_end": True}, id="after the epoch"),
        pytest.param({"monitor": "val/loss"}, id="by the validation loss"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 3], ids=["one batch", "three batches"])
def test_from_an_epochs_end(saver: dict[str, Any], accumulate: int) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
    whole = run(saver=saver, **options)
    paths = saved()
    assert len(paths) == EPOCHS
    assert whole[1].optimizers[0].param_groups[1]["lr"] < 0.02  # the plateau was met
    for path in paths[:3]:
        assert_same_end(run(path, **options), whole)


@pytest.mark.parametrize("accumulate", [1, 3], ids=["one batch", "three batches"])
def test_from_the_middle_of_an_epoch(accumulate: int) -> None:
    whole = run(saver={"every_n_train_steps": 3 if accumulate == 1 else 1}, accumulate_grad_batches=accumulate)
    steps = [int(path.stem.split("step=")[1]) for path in saved()]
    per_epoch = 8 // accumulate + (accumulate > 1)
    # a checkpoint at an epoch's very last update skips that epoch's validation when resumed, in every Lightning run
    inside = [path for path, step in zip(saved(), steps, strict=True) if step % per_epoch]
    assert len(inside) >= 8
    for path in inside[::3]:
        assert_same_end(run(path, accumulate_grad_batches=accumulate), whole)


def test_from_an_epochs_very_last_update() -> None:
    """The resumed run leaves that epoch's validation out, as every Lightning run does; nothing else differs."""
    unwatched = {name: schedule for name, schedule in OPTIONS["schedulers"].items() if name != "number"}

    def train(seed: int, **options: Any) -> tuple[MultiTaskModule, Trainer]:
        module, data = build(seed, schedulers=unwatched)
        return module, fit(module, data, max_epochs=3, **options)

    whole = train(0, callbacks=[ModelCheckpoint("saved", every_n_train_steps=8, save_top_k=-1)])
    for path in saved()[:2]:
        assert_same_end(train(99, ckpt_path=str(path)), whole)


def test_a_run_that_was_stopped_is_resumed_from_its_last_checkpoint() -> None:
    whole = run()
    run(saver={}, max_epochs=2)
    assert_same_end(run(saved()[-1]), whole)


class Interrupted(Callback):
    """Saves after one batch of the run, wherever in a window it is."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.save_checkpoint("saved/inside.ckpt")


@pytest.mark.parametrize("batch", [9, 10, 14])
def test_from_the_middle_of_a_window(batch: int) -> None:
    module, data = build()
    whole = module, fit(module, data, callbacks=[Interrupted(batch)], accumulate_grad_batches=3, max_epochs=EPOCHS)
    torch.load("saved/inside.ckpt", weights_only=True)
    assert_same_end(run(Path("saved/inside.ckpt"), accumulate_grad_batches=3), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"groups": {"pair": ["task:number", "task:kind"]}},
            r"The optimizer groups changed between save and load: .* has \{.*'pair': 4.*checkpoint \{.*'kind': 2",
            id="merged",
        ),
        pytest.param(
            {"groups": {"first": ["*.stages.0.*"]}},
            r"the module has \{'shared': 2,.*the checkpoint \{'shared': 4",
            id="split",
        ),
    ],
)
def test_other_groups_than_the_checkpoints(change: dict[str, Any], message: str) -> None:
    run(saver={}, max_epochs=1)
    module, data = build(**change, schedulers=None, optimizers={"default": Adam})
    with pytest.raises(ConfigurationError, match=message):
        fit(module, data, ckpt_path=str(saved()[0]), max_epochs=2)


def test_other_scheduled_groups_than_the_checkpoints() -> None:
    run(saver={}, max_epochs=1)
    fewer = {name: schedule for name, schedule in OPTIONS["schedulers"].items() if name != "kind"}
    module, data = build(schedulers=fewer)
    with pytest.raises(ConfigurationError, match=r"The scheduled groups changed .*\['number', 'shared', 'vector'\]"):
        fit(module, data, ckpt_path=str(saved()[0]), max_epochs=2)


def test_a_resumed_run_does_not_forget_what_it_skipped() -> None:
    module, data = build()
    module.updates.skipped = 7
    fit(module, data, callbacks=[ModelCheckpoint("saved")])
    other, data = build()
    fit(other, data, ckpt_path=str(saved()[0]), max_epochs=2)
    assert other.updates.skipped == 7


def test_a_checkpoint_that_was_only_validated_leaves_nothing_for_the_next_training() -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 3, "precision": "32-true"}
    module, data = build()
    fit(module, data, callbacks=[Interrupted(5)], **options)
    validated, _ = build(seed=99)
    make_trainer(precision="32-true").validate(validated, data, ckpt_path="saved/inside.ckpt", verbose=False)
    loaded = MultiTaskModule.load_from_checkpoint("saved/inside.ckpt")
    for again in (validated, loaded):
        torch.manual_seed(5)
        fit(again, data, **options)
    assert_same(validated.state_dict(), loaded.state_dict())
