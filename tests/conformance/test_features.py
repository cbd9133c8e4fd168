"""Every feature of Lightning twice: on a ``MultiTaskModule`` and on a plain automatic module of the same network.

Weights, counters, checkpoint files, logged axes and values, learning-rate curves and hooks must be the same, for one
group, for five, and for two groups of a single task.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau, StepLR

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.types import Batch
from tests.conformance.plain import Ended, Feature, Plain, counted, run
from tests.core.saved import single
from tests.helpers import assert_same, loader_of, make_batches, make_module, make_tasks, without

ALL = ("number", "vector", "kind")
SGD_05 = partial(SGD, lr=0.05, momentum=0.9, fused=True)
TOLERANCE = {"64-true": 1e-10, "32-true": 1e-6}
LAYOUTS: dict[str, tuple[tuple[str, ...], dict[str, list[str]], int]] = {
    "one group": (ALL, {"all": ["*"]}, 1),
    "five groups": (ALL, {"first": ["architecture.encoder.stages.0.*"]}, 5),
    "two groups of one task": (("number",), {"first": ["*.stages.0.*"], "rest": ["*.stages.1.*", "heads.*"]}, 2),
}


class WithBackbone(MultiTaskModule):
    """Names what ``BackboneFinetuning`` freezes."""

    @property
    def backbone(self) -> Any:
        return self.architecture


class Impatient(EarlyStopping):
    """Stops at the first validation."""

    def __init__(self) -> None:
        super().__init__("val/loss", stopping_threshold=1e9)


PLATEAU = Schedule(partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.5), monitor="val/loss")
FEATURES = {
    "nothing special": Feature(),
    "Adam": Feature(optimizer=partial(Adam, lr=1e-3, fused=True)),
    # what counts updates
    "max_steps": Feature({"max_steps": 9, "max_epochs": -1}),
    "min_steps": Feature({"min_steps": 12, "max_epochs": 4}, lambda: [Impatient()]),
    "fast_dev_run": Feature({"fast_dev_run": 3}),
    "every_n_train_steps": Feature({}, lambda: [ModelCheckpoint(every_n_train_steps=3, save_top_k=-1)]),
    "train_time_interval": Feature({}, lambda: [ModelCheckpoint(train_time_interval=timedelta(0), save_top_k=-1)]),
    "accumulate_grad_batches": Feature({"accumulate_grad_batches": 3}, windows=True),
    "accumulation and max_steps": Feature(
        {"accumulate_grad_batches": 2, "max_steps": 5, "max_epochs": 9}, windows=True
    ),
    "accumulation scheduler": Feature({}, lambda: [GradientAccumulationScheduler({0: 1, 1: 3})], windows=True),
    # gradients
    "clipping by norm": Feature({"gradient_clip_val": 0.3}),
    "clipping by value": Feature({"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}),
    "accumulation and clipping": Feature({"accumulate_grad_batches": 3, "gradient_clip_val": 0.3}, windows=True),
    # schedules
    "schedule by step": Feature(schedule=Schedule(partial(StepLR, step_size=3), interval="step")),
    "schedule by epoch": Feature({"max_epochs": 4}, schedule=Schedule(partial(StepLR, step_size=2))),
    "schedule with a frequency": Feature(schedule=Schedule(partial(ExponentialLR, gamma=0.5), "step", frequency=4)),
    "plateau": Feature({"max_epochs": 4}, schedule=PLATEAU),
    "warm-up": Feature(schedule=Schedule(partial(StepLR, step_size=4), interval="step", warmup=5)),
    "accumulation and schedule by step": Feature(
        {"accumulate_grad_batches": 3},
        schedule=Schedule(partial(StepLR, step_size=2), interval="step"),
        windows=True,
    ),
    # callbacks
    "SWA": Feature(
        {"max_epochs": 5}, lambda: [StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=2, annealing_epochs=2)]
    ),
    "EMA": Feature({}, lambda: [EMAWeightAveraging(decay=0.5)]),
    "learning-rate monitor": Feature(
        {}, lambda: [LearningRateMonitor()], schedule=Schedule(partial(StepLR, step_size=1))
    ),
    "early stopping": Feature(
        {"max_epochs": 9}, lambda: [EarlyStopping("val/loss", patience=1, min_delta=0.3)], schedule=PLATEAU
    ),
    # parts of the data
    "overfit_batches": Feature({"overfit_batches": 2}),
    "limit_train_batches": Feature({"limit_train_batches": 4}),
    "limit_val_batches": Feature({"limit_val_batches": 1}),
    "no validation": Feature({"limit_val_batches": 0}),
    "val_check_interval": Feature({"val_check_interval": 3}),
    "check_val_every_n_epoch": Feature({"check_val_every_n_epoch": 2, "max_epochs": 4}),
    "several validation loaders": Feature(several=True),
    # debugging and records
    "detect_anomaly": Feature({"detect_anomaly": True}),
    "deterministic": Feature({"deterministic": True}),
    "profiler": Feature({"profiler": "simple"}),
    "no logger": Feature({"logger": False}),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_feature = pytest.mark.parametrize("name", FEATURES)


@pytest.fixture(autouse=True)
def _deterministic_no_more() -> Iterator[None]:
    """``deterministic`` is a switch of the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def data(precision: str, tasks: tuple[str, ...] = ALL, several: bool = False) -> tuple[list[Batch], Any]:
    train, val, more = (
        [without(batch, *set(ALL).difference(tasks)) for batch in made]
        for made in (make_batches(7), make_batches(2, seed=4), make_batches(2, seed=5))
    )
    if precision != "64-true":
        train, val, more = (single(batches) for batches in (train, val, more))
    return train, [loader_of(val), loader_of(more)] if several else loader_of(val)


def ours(layout: str, feature: Feature, precision: str, balancer: Any = None, **options: Any) -> Ended:
    tasks, groups, number = LAYOUTS[layout]
    module = make_module(
        WithBackbone,
        tasks=make_tasks(*tasks),
        groups=groups,
        optimizers={"default": feature.optimizer or SGD_05},
        schedulers={"default": feature.schedule} if feature.schedule else None,
        **({} if balancer is None else {"balancer": balancer}),
    )
    assert len(module.groups) == number
    train, val = data(precision, tasks, feature.several)
    return run(module, feature, loader_of(train), val, "ours", precision=precision, **options)


def plain(layout: str, feature: Feature, precision: str, **options: Any) -> Ended:
    tasks, _, _ = LAYOUTS[layout]
    train, val = data(precision, tasks, feature.several)
    module = Plain(tasks, feature.optimizer or SGD_05, feature.schedule)
    return run(module, feature, loader_of(train), val, "plain", precision=precision, **options)


def assert_equal(found: Ended, expected: Ended, feature: Feature, atol: float) -> None:
    """Compare all that two runs leave behind."""
    assert_same(found.weights, expected.weights, atol=atol)
    assert found.trainer.global_step == expected.trainer.global_step > 0
    assert found.trainer.current_epoch == expected.trainer.current_epoch
    assert [path.split("/")[1:] for path in found.files] == [path.split("/")[1:] for path in expected.files]
    assert found.notes.rates == [{n: pytest.approx(r) for n, r in rates.items()} for rates in expected.notes.rates]
    if feature.windows:  # ours come on the last batch of a window
        assert counted(found.notes.hooks) == counted(expected.notes.hooks)
    else:
        assert found.notes.hooks == expected.notes.hooks
    for name in expected.logged:
        assert [step for step, _ in found.logged[name]] == [step for step, _ in expected.logged[name]], name
        if name != "train/loss" or not feature.windows:
            for (_, values), (_, wanted) in zip(found.logged[name], expected.logged[name], strict=True):
                assert sorted(values) == pytest.approx(sorted(wanted), abs=1e-5), name


@each_layout
@pytest.mark.parametrize("precision", TOLERANCE)
@each_feature
def test_a_sum_of_losses(name: str, precision: str, layout: str) -> None:
    feature = FEATURES[name]
    assert_equal(ours(layout, feature, precision), plain(layout, feature, precision), feature, TOLERANCE[precision])
