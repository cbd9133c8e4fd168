"""Every feature of Lightning twice: on a ``MultiTaskModule`` and on a plain automatic module of the same network.

Weights, counters, checkpoint files, logged axes and values, learning-rate curves and hooks must be the same, for one
group, for five, and for two groups of a single task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau, StepLR
from torchjd.aggregation import UPGrad

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.types import Batch, ConfigurationError
from tests.conformance.plain import Ended, Feature, Plain, batches_of, read_log, run
from tests.core.saved import single
from tests.cover import covering, some_of
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
    "min_steps": Feature({"min_steps": 12, "max_epochs": 4}, lambda: [Impatient()], watches=True),
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
    "schedule with a frequency": Feature(  # Lightning counts batches from each epoch's start; ours updates of the run
        {"limit_train_batches": 6}, schedule=Schedule(partial(ExponentialLR, gamma=0.5), "step", frequency=3)
    ),
    "plateau": Feature({"max_epochs": 4}, schedule=PLATEAU, watches=True),
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
        {"max_epochs": 9},
        lambda: [EarlyStopping("val/loss", patience=1, min_delta=0.3)],
        schedule=PLATEAU,
        watches=True,
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


@pytest.fixture(autouse=True)
def _deterministic_no_more() -> Iterator[None]:
    """``deterministic`` is a switch of the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def data(precision: str | None, tasks: tuple[str, ...] = ALL, several: bool = False) -> tuple[list[Batch], Any]:
    train, val, more = (
        [without(batch, *set(ALL).difference(tasks)) for batch in made]
        for made in (make_batches(7), make_batches(2, seed=4), make_batches(2, seed=5))
    )
    if precision != "64-true":
        train, val, more = (single(batches) for batches in (train, val, more))
    return train, (loader_of(val), loader_of(more)) if several else loader_of(val)


def ours(layout: str, feature: Feature, precision: str | None, balancer: Any = None, **options: Any) -> Ended:
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


def plain(layout: str, feature: Feature, precision: str | None, **options: Any) -> Ended:
    tasks, _, _ = LAYOUTS[layout]
    train, val = data(precision, tasks, feature.several)
    module = Plain(tasks, feature.optimizer or SGD_05, feature.schedule)
    return run(module, feature, loader_of(train), val, "plain", precision=precision, **options)


def assert_same_course(found: Ended, expected: Ended) -> None:
    """Compare counters, checkpoint files, rates and logged axes."""
    assert found.trainer.global_step == expected.trainer.global_step > 0
    assert found.trainer.current_epoch == expected.trainer.current_epoch
    assert [path.split("/")[1:] for path in found.files] == [path.split("/")[1:] for path in expected.files]
    assert found.notes.rates == [{n: pytest.approx(r) for n, r in rates.items()} for rates in expected.notes.rates]
    for name in expected.logged:
        assert [step for step, _ in found.logged[name]] == [step for step, _ in expected.logged[name]], name


def assert_equal(found: Ended, expected: Ended, feature: Feature, atol: float) -> None:
    """Compare all that two runs leave behind."""
    assert_same(found.weights, expected.weights, atol=atol)
    assert_same_course(found, expected)
    if feature.windows:  # ours come on the last batch of a window
        assert Counter(found.notes.hooks) == Counter(expected.notes.hooks)
    else:
        assert found.notes.hooks == expected.notes.hooks
    for name, rows in expected.logged.items():
        if name != "train/loss" or not feature.windows:
            for (_, values), (_, wanted) in zip(found.logged[name], rows, strict=True):
                assert sorted(values) == pytest.approx(sorted(wanted), abs=1e-5), name


TURNS = [[*LAYOUTS][turn:] + [*LAYOUTS][:turn] for turn in range(len(LAYOUTS))]  # each layout comes first in turn
CASES = [(n, "64-true", layout) for place, n in enumerate(FEATURES) for layout in TURNS[place % len(LAYOUTS)]]
CASES += [(name, "32-true", "five groups") for name in FEATURES]


@pytest.mark.parametrize(("name", "precision", "layout"), covering(CASES, lambda case: {case[0], case[1:]}))
def test_a_loss_balancer(name: str, precision: str, layout: str) -> None:
    feature = FEATURES[name]
    assert_equal(ours(layout, feature, precision), plain(layout, feature, precision), feature, TOLERANCE[precision])


@pytest.mark.parametrize("name", some_of(FEATURES, 2))
def test_a_gradient_balancer(name: str) -> None:
    feature = FEATURES[name]
    found, expected = (make("five groups", feature, "64-true") for make in (partial(ours, balancer=UPGrad()), plain))
    for batch in batches_of(found.notes.hooks):
        assert max(Counter(batch).values()) == 1
    if feature.watches:
        assert set(found.notes.hooks) == set(expected.notes.hooks)
        return
    assert_same_course(found, expected)
    for mine, theirs in zip(batches_of(found.notes.hooks), batches_of(expected.notes.hooks), strict=True):
        assert feature.windows or set(mine) == set(theirs)
    assert set(found.notes.hooks) == set(expected.notes.hooks)


# ------------------------------------------------------------------------------------------------- backbone finetuning
FINETUNED = Feature({"max_epochs": 5}, lambda: [BackboneFinetuning(2, lambda _: 2.0, should_align=False)])


@pytest.mark.parametrize("precision", TOLERANCE)
def test_backbone_finetuning(precision: str) -> None:
    found, expected = (make("five groups", FINETUNED, precision) for make in (ours, plain))
    assert_equal(found, expected, FINETUNED, TOLERANCE[precision])
    rates = [noted.get("architecture.encoder.stages.0.1.weight") for noted in found.notes.rates[::7]]
    assert rates == [None, None, pytest.approx(0.005), pytest.approx(0.01), pytest.approx(0.02)]


def test_backbone_finetuning_and_a_gradient_balancer() -> None:
    found, expected = (make("five groups", FINETUNED, "64-true") for make in (partial(ours, balancer=UPGrad()), plain))
    assert_same_course(found, expected)


def test_backbone_finetuning_goes_on_after_a_resume() -> None:
    whole = ours("five groups", FINETUNED, "64-true")
    saver = Feature({"max_epochs": 4}, FINETUNED.callbacks)
    tasks, groups, _ = LAYOUTS["five groups"]
    first = ours("five groups", saver, "64-true")
    (saved,) = Path("ours").rglob("epoch=3*.ckpt")
    module = make_module(WithBackbone, tasks=make_tasks(*tasks), groups=groups, optimizers={"default": SGD_05})
    train, val = data("64-true")
    resumed = run(module, FINETUNED, loader_of(train), val, "resumed", ckpt_path=str(saved))
    assert first.trainer.global_step == 28
    assert_same(resumed.weights, whole.weights)
    assert resumed.notes.rates == whole.notes.rates[28:]


@pytest.mark.parametrize("layout", ["one group", "two groups of one task"])
def test_backbone_finetuning_of_a_part_of_a_group_is_refused(layout: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected groups that are part of it or not, found \['(all|rest)'\]"):
        ours(layout, FINETUNED, "64-true")


# -------------------------------------------------------------------------------------------------------------- loggers
def test_several_loggers_get_the_same() -> None:
    loggers = [CSVLogger("ours/a"), CSVLogger("ours/b"), TensorBoardLogger("ours")]
    ours("five groups", Feature({"logger": loggers}), "64-true")
    expected = plain("five groups", Feature({"logger": CSVLogger("plain")}), "64-true").logged
    for folder in ("ours/a", "ours/b"):
        logged = read_log(folder)
        assert [step for step, _ in logged["train/loss"]] == [step for step, _ in expected["train/loss"]]
        assert [step for step, _ in logged["val/loss"]] == [step for step, _ in expected["val/loss"]]
    assert list(Path("ours").rglob("events.out.tfevents*"))


# ------------------------------------------------------------------------------------------------ one known difference
def test_a_last_window_is_divided_by_its_own_size() -> None:
    """Lightning divides the gradient of a last window of 1 batch by the 3 of a full window; ours by 1."""
    feature = Feature({"accumulate_grad_batches": 3, "limit_train_batches": 1, "max_epochs": 1})
    start = make_module().state_dict()
    train, val = data("64-true")
    module = Plain(ALL, SGD_05)
    module.windows_of_their_own_size = False
    theirs = run(module, feature, loader_of(train), val, "plain", precision="64-true").weights
    for name, weight in ours("five groups", feature, "64-true").weights.items():
        torch.testing.assert_close(weight - start[name], 3 * (theirs[name] - start[name]), rtol=1e-9, atol=1e-12)
