"""Lightning's callbacks and tuners on a module with several groups: as with a plain automatic module."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.tuner.tuning import Tuner
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import UncertaintyWeighting, UPGrad
from tests.helpers import TinyData, assert_same, fit, make_batches, make_module, make_trainer, weights_of

RATES = {"default": partial(Adam, lr=1e-3), "kind": partial(SGD, lr=0.1), "balancer": partial(Adam, lr=1e-2)}


class FirstRates(Callback):
    """Notes the groups' rates at the first update and the rates after each epoch."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.epochs: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.first = self.first or rates(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(rates(pl_module))


def rates(module: LightningModule) -> dict[str, float]:
    assert isinstance(module, MultiTaskModule)
    return {name: optimizer.param_groups[0]["lr"] for name, optimizer in module.group_optimizers.items()}


def test_a_timed_checkpoint_is_saved(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, train_time_interval=timedelta(0), save_top_k=-1)
    fit(make_module(), make_batches(3), callbacks=[saver])
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [f"epoch=0-step={n}.ckpt" for n in (1, 2, 3)]
    assert saver.best_model_path


@pytest.mark.parametrize("groups", [{"all": ["*"]}, None], ids=["one group", "five groups"])
def test_the_accumulation_scheduler(groups: dict[str, list[str]] | None) -> None:
    scheduled = make_module(balancer=UncertaintyWeighting, groups=groups)
    trainer = fit(scheduled, make_batches(6), callbacks=[GradientAccumulationScheduler({0: 1, 1: 3})], max_epochs=2)
    assert trainer.global_step == 6 + 2
    assert trainer.accumulate_grad_batches == 1
    by_hand = make_module(balancer=UncertaintyWeighting, groups=groups)
    trainer = fit(by_hand, make_batches(6), enable_checkpointing=True, default_root_dir=".")
    trainer.save_checkpoint("first.ckpt")
    fit(by_hand, make_batches(6), max_epochs=2, accumulate_grad_batches=3, ckpt_path="first.ckpt")
    assert_same(weights_of(scheduled), weights_of(by_hand))


def test_stochastic_weight_averaging_anneals_every_group() -> None:
    noted = FirstRates()
    swa = StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=2, annealing_epochs=2)
    fit(
        make_module(balancer=UncertaintyWeighting, optimizers=RATES),
        make_batches(2),
        callbacks=[swa, noted],
        max_epochs=6,
    )
    assert set(noted.epochs[0].values()) == {1e-3, 0.1, 1e-2}
    assert list(noted.epochs[-1].values()) == pytest.approx([0.02] * len(noted.epochs[-1]))
    assert noted.epochs[2]["kind"] != noted.epochs[3]["kind"]


def test_an_exponential_average_counts_updates() -> None:
    average = EMAWeightAveraging(decay=0.5)
    module = make_module()
    fit(module, make_batches(6), callbacks=[average], accumulate_grad_batches=2)
    assert average._average_model is not None
    assert int(average._average_model.n_averaged) == 3


@pytest.mark.parametrize("balancer", [UncertaintyWeighting, UPGrad])
def test_a_learning_rate_finder_keeps_the_ratios(balancer: Any) -> None:
    noted = FirstRates()
    finder = LearningRateFinder(min_lr=1e-5, max_lr=1.0, num_training_steps=40)
    module = make_module(balancer=balancer, optimizers=RATES)
    data = TinyData(n=400)
    fit(module, data, callbacks=[finder, noted], enable_checkpointing=True)
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    assert found is not None
    swept = finder.optimal_lr.results["lr"]
    assert swept[0] < 1e-4 < 1e-1 < swept[-1]
    assert module.lr == pytest.approx(found)
    final = rates(module)
    expected = {**dict.fromkeys(final, found), "kind": found * 100, "balancer": found * 10}
    assert final == pytest.approx({name: rate for name, rate in expected.items() if name in final})


@pytest.mark.parametrize("balancer", [UncertaintyWeighting, UPGrad])
def test_the_tuner_finds_a_rate_and_a_batch_size(balancer: Any) -> None:
    module = make_module(balancer=balancer, optimizers=RATES)
    trainer = make_trainer(enable_checkpointing=True, logger=False)
    found = Tuner(trainer).lr_find(module, TinyData(n=400), num_training=40)
    assert found is not None
    noted = FirstRates()
    fit(module, make_batches(2), callbacks=[noted])
    assert noted.first["kind"] == pytest.approx(100 * noted.first["shared"])
    assert noted.first["shared"] == pytest.approx(found.suggestion())
    data = TinyData(n=200, batch_size=2)
    before = weights_of(module)
    size = Tuner(make_trainer(enable_checkpointing=True)).scale_batch_size(module, data, max_trials=3, mode="power")
    assert size == 8
    assert data.batch_size == 8
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(module).items())


@pytest.mark.parametrize("balancer", [UncertaintyWeighting, UPGrad])
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_several_processes_do_not_look_for_a_batch_size(strategy: str, balancer: Any) -> None:
    """Lightning says so itself, before any process is started."""
    chosen: Any = "ddp" if strategy == "ddp" else ModelParallelStrategy()
    trainer = make_trainer(enable_checkpointing=True, strategy=chosen, devices=2, precision="32-true")
    with pytest.raises(ValueError, match="not supported with distributed strategies"):
        Tuner(trainer).scale_batch_size(make_module(balancer=balancer), TinyData(n=200, batch_size=2))
