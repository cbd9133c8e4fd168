"""Learning-rate schedules in training, fifty updates against a loop in bare PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoredPlateau
from lightning.pytorch.loggers import CSVLogger
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, ReduceLROnPlateau, StepLR

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.types import ConfigurationError
from tests.core.by_hand import HandLoop, Make
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of, with_gaps

TRAIN, VAL = make_batches(10), with_gaps(make_batches(3, rows=7, seed=9))
WINDOWS = [[batch] for batch in TRAIN]
TRUNK, NUMBER, OTHERS = partial(SGD, lr=0.05, momentum=0.9), partial(Adam, lr=0.02), partial(SGD, lr=0.01)
OPTIMIZERS = {"shared": TRUNK, "number": NUMBER, "default": OTHERS}
BY_HAND: dict[tuple[str, ...], Make] = {
    ("architecture.",): TRUNK,
    ("heads.number.",): NUMBER,
    ("heads.vector.", "heads.kind."): OTHERS,
}
NEVER_BETTER = partial(ReduceLROnPlateau, patience=0, threshold=1e6, threshold_mode="abs")
PLATEAU = partial(ReduceLROnPlateau, patience=0, factor=0.3, threshold=0.05)


class Rates(LearningRateMonitor):
    """Keeps each group's rate as it is at the start of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[float]] = {}

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        for group in trainer.optimizers[0].param_groups:
            self.found.setdefault(group["name"], []).append(group["lr"])


def trained(schedulers: dict[str, Any], **options: Any) -> tuple[MultiTaskModule, Rates]:
    module, rates = make_module(optimizers=OPTIMIZERS, schedulers=schedulers), Rates()
    fit(module, TRAIN, VAL, callbacks=[rates], logger=CSVLogger("."), **{"max_epochs": 5, **options})
    return module, rates


def test_schedules_by_update_and_by_epoch() -> None:
    module, rates = trained(
        {
            "shared": Schedule(partial(CosineAnnealingLR, T_max=60), interval="step"),
            "number": partial(StepLR, step_size=2, gamma=0.1),
        }
    )
    by_hand = HandLoop(make_module(), BY_HAND)
    cosine = CosineAnnealingLR(by_hand.optimizers[0], T_max=60)
    steps = StepLR(by_hand.optimizers[1], step_size=2, gamma=0.1)
    by_hand.train(5, WINDOWS, after_update=cosine.step, after_epoch=steps.step)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=1e-10)
    assert rates.found["number"] == pytest.approx([0.02] * 20 + [0.002] * 20 + [0.0002] * 10)
    assert rates.found["kind"] == [0.01] * 50
    assert len(set(rates.found["shared"])) == 50


@pytest.mark.parametrize("accumulate", [1, 4], ids=["one batch", "four batches"])
def test_schedules_by_update_count_updates(accumulate: int) -> None:
    halving = Schedule(partial(ExponentialLR, gamma=0.9), interval="step", frequency=2)
    module, _ = trained({"default": halving}, accumulate_grad_batches=accumulate)
    by_hand = HandLoop(make_module(), BY_HAND)
    schedulers = [ExponentialLR(optimizer, gamma=0.9) for optimizer in by_hand.optimizers]
    done = 0

    def after_update() -> None:
        nonlocal done
        done += 1
        for scheduler in schedulers:
            if done % 2 == 0:
                scheduler.step()

    windows = [TRAIN[start : start + accumulate] for start in range(0, 10, accumulate)]
    by_hand.train(5, windows, after_update=after_update)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=1e-10)


@pytest.mark.parametrize("every", [1, 2], ids=["every epoch", "every second epoch"])
@pytest.mark.parametrize(
    "plateau",
    [
        pytest.param(Schedule(PLATEAU, monitor="val/loss"), id="our monitor"),
        pytest.param(partial(MonitoredPlateau, monitor="val/loss", **PLATEAU.keywords), id="Lightning's monitor"),
    ],
)
def test_a_plateau_watches_the_validation(plateau: Any, every: int) -> None:
    module, rates = trained({"number": plateau}, check_val_every_n_epoch=every, max_epochs=6)
    by_hand = HandLoop(make_module(), BY_HAND)
    scheduler = PLATEAU(by_hand.optimizers[1])
    epochs = 0

    def after_epoch() -> None:
        nonlocal epochs
        epochs += 1
        if epochs % every == 0:
            scheduler.step(by_hand.evaluate(VAL))

    by_hand.train(6, WINDOWS, after_epoch=after_epoch)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=1e-10)
    assert len(set(rates.found["number"])) > 1  # it did step
    assert rates.found["number"][: 10 * every] == [0.02] * 10 * every


def test_a_plateau_steps_once_an_epoch_however_often_one_validates() -> None:
    often, rates = trained({"number": Schedule(PLATEAU, monitor="val/loss")}, val_check_interval=0.2)
    once, expected = trained({"number": Schedule(PLATEAU, monitor="val/loss")})
    assert rates.found == expected.found
    assert_same(weights_of(often), weights_of(once))


def test_a_plateau_may_watch_training() -> None:
    _, rates = trained({"number": Schedule(NEVER_BETTER, monitor="train/loss")})
    assert rates.found["number"] == pytest.approx([0.02] * 20 + [0.002] * 10 + [0.0002] * 10 + [0.00002] * 10)


@pytest.mark.parametrize("validated", [True, False], ids=["with validation", "without"])
def test_a_metric_that_is_never_logged(validated: bool) -> None:
    module = make_module(schedulers={"number": Schedule(PLATEAU, monitor="val/lass")})
    found = "'val/loss'" if validated else "'train/loss'"
    with pytest.raises(ConfigurationError, match=rf"`schedulers\.number` monitors 'val/lass', .* Found \[.*{found}"):
        fit(module, TRAIN, VAL if validated else None)


def test_unknown_groups_are_refused_before_the_first_batch() -> None:
    class Watched(MultiTaskModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise AssertionError("a batch was trained on")

    module = make_module(Watched, schedulers={"knid": partial(StepLR, step_size=1)})
    with pytest.raises(ConfigurationError, match=r"`schedulers`: .* found 'knid'\. Did you mean 'kind'\?"):
        fit(module, TRAIN)


def test_the_schedulers_of_others_are_stepped_as_under_automatic_optimization() -> None:
    """A user's ``configure_optimizers`` on top of ours, with a scheduler of the trainer's own kind."""

    class Mine(MultiTaskModule):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, step_size=1)}  # type: ignore[arg-type]

    module, rates = make_module(Mine, optimizers=OPTIMIZERS), Rates()
    fit(module, TRAIN, callbacks=[rates], logger=CSVLogger("."), max_epochs=2)
    assert rates.found["number"] == pytest.approx([0.02] * 10 + [0.002] * 10)
