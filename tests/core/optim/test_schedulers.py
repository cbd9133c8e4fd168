"""Schedulers that follow from the length of the run, rows of them, and functions that make one: in Python and YAML."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, StepLR

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.core.optim import ChainedScheduler, ReduceLROnPlateau, SequentialLR
from mtl_lightning.core.optim.schedulers import SchedulerFunction
from mtl_lightning.data import SyntheticRegression
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import ConfigurationError, MtlLightningWarning
from tests.core.optim.test_schedules import Rates
from tests.cover import some_of
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of
from tests.messages import run, spoilt

TRAIN = make_batches(10)
LR = 0.1


def down(optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1) -> LambdaLR:
    """Go up linearly and down to 0 at the end of the run, as ``transformers`` has it."""

    def factor(step: int) -> float:
        left = (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps)
        return step / num_warmup_steps if step < num_warmup_steps else max(0.0, left)

    return LambdaLR(optimizer, factor, last_epoch)


def bare(optimizer, num_warmup_steps=0, num_training_steps=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Do the same without a type."""
    return down(optimizer, num_warmup_steps, num_training_steps)


def rates_of(schedule: Any, **options: Any) -> list[float]:
    """Return the rates of a group at the start of each of 20 updates."""
    module, rates = make_module(optimizers={"default": partial(SGD, lr=LR)}, schedulers={"number": schedule}), Rates()
    fit(module, TRAIN, callbacks=[rates], logger=CSVLogger("."), **{"max_epochs": 2, **options})
    assert rates.found["kind"] == [LR] * len(rates.found["kind"])
    return rates.found["number"]


def expected(make: Any, steps: int, every: int = 1) -> list[float]:
    """Return the rates of a loop in bare PyTorch."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, found = make(optimizer), []
    for step in range(1, steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            scheduler.step()
    return found


CYCLE = partial(OneCycleLR, max_lr=1.0)


def test_one_cycle_takes_the_updates_of_the_run() -> None:
    by_hand = expected(partial(CYCLE, total_steps=20), 20)
    assert rates_of(CYCLE) == pytest.approx(by_hand)
    assert rates_of(Schedule(CYCLE, interval="step")) == pytest.approx(by_hand)
    assert rates_of(partial(CYCLE, total_steps=20)) == pytest.approx(by_hand)
    assert rates_of(partial(CYCLE, epochs=2, steps_per_epoch=10)) == pytest.approx(by_hand)
    assert rates_of(CYCLE, max_steps=7, max_epochs=-1) == pytest.approx(expected(partial(CYCLE, total_steps=7), 7))


def test_one_cycle_counts_windows_and_every_second_update() -> None:
    assert rates_of(CYCLE, accumulate_grad_batches=4)[0] == pytest.approx(1 / 25)
    found = rates_of(CYCLE, accumulate_grad_batches=5)
    assert found[::5] == pytest.approx(expected(partial(CYCLE, total_steps=4), 4))
    found = rates_of(Schedule(CYCLE, frequency=2))
    assert found == pytest.approx(expected(partial(CYCLE, total_steps=10), 20, every=2))
    assert rates_of(Schedule(CYCLE, interval="epoch"))[::10] == pytest.approx(
        expected(partial(CYCLE, total_steps=2), 2)
    )


def test_a_cycle_that_ends_before_the_run_is_refused_before_the_first_batch() -> None:
    message = r"`schedulers\.number`: expected total_steps of OneCycleLR to be the 20 of the run .*found 5"
    with pytest.raises(ConfigurationError, match=message):
        rates_of(partial(CYCLE, total_steps=5))


def test_a_run_without_an_end_has_no_cycle() -> None:
    with pytest.raises(ConfigurationError, match=r"`schedulers\.number`: expected a run whose length is known"):
        rates_of(CYCLE, max_epochs=-1)


def test_a_warm_up_may_be_a_share_of_the_run() -> None:
    cosine = partial(CosineAnnealingLR, T_max=40)
    by_number = rates_of(Schedule(cosine, interval="step", warmup=5))
    assert rates_of(Schedule(cosine, interval="step", warmup=0.25)) == by_number
    assert by_number[:6] == pytest.approx([LR * (0.01 + 0.99 * k / 5) for k in range(6)])
    after = expected(partial(CYCLE, total_steps=16), 16)
    assert rates_of(Schedule(CYCLE, warmup=0.2))[4:] == pytest.approx(after)


def test_a_warm_up_that_cannot_be_right() -> None:
    with pytest.raises(ConfigurationError, match=r"`schedulers\.number`: expected a whole number .*found 2\.5"):
        rates_of(Schedule(partial(StepLR, step_size=1), interval="step", warmup=2.5))


def test_a_warm_up_longer_than_the_run_is_warned_of() -> None:
    with pytest.warns(MtlLightningWarning, match=r"`schedulers\.number`: .* within the 20 steps .*found 30: the conf"):
        rates_of(Schedule(partial(StepLR, step_size=1), interval="step", warmup=30))


def test_schedulers_in_a_row() -> None:
    def torchs(optimizer: Optimizer) -> lr_scheduler.SequentialLR:
        parts = [LinearLR(optimizer, 0.1, total_iters=5), OneCycleLR(optimizer, 1.0, total_steps=15)]
        return lr_scheduler.SequentialLR(optimizer, parts, [5])

    parts: list[Any] = [partial(LinearLR, start_factor=0.1, total_iters=5), CYCLE]
    for milestone in (5, 0.25):
        row = partial(SequentialLR, schedulers=parts, milestones=[milestone])
        assert rates_of(Schedule(row, interval="step")) == pytest.approx(expected(torchs, 20))


def test_schedulers_whose_factors_are_multiplied() -> None:
    parts: list[Any] = [partial(ConstantLR, factor=0.5, total_iters=3), partial(StepLR, step_size=2)]

    def torchs(optimizer: Optimizer) -> lr_scheduler.ChainedScheduler:
        return lr_scheduler.ChainedScheduler([make(optimizer) for make in parts], optimizer)

    found = rates_of(Schedule(partial(ChainedScheduler, schedulers=parts), interval="step"))
    assert found == pytest.approx(expected(torchs, 20))


def test_too_many_milestones() -> None:
    with pytest.raises(ConfigurationError, match=r"`schedulers\.number`: SequentialLR: expected one milestone between"):
        rates_of(partial(SequentialLR, schedulers=[partial(LinearLR)], milestones=[1]))


@pytest.mark.parametrize("function", [down, bare], ids=["annotated", "not annotated"])
@pytest.mark.parametrize("warmup", [5, 0.25])
def test_functions_are_told_the_length_of_the_run(function: Any, warmup: float) -> None:
    by_hand = expected(lambda optimizer: down(optimizer, 5, 20), 20)
    assert rates_of(SchedulerFunction.of(function, {"num_warmup_steps": warmup})) == pytest.approx(by_hand)
    assert rates_of(partial(function, num_warmup_steps=warmup)) == pytest.approx(by_hand)


def test_arguments_that_a_function_has_not() -> None:
    with pytest.raises(ConfigurationError, match=r"down has no option 'num_warmup'\. Did you mean 'num_warmup_steps'"):
        SchedulerFunction.of(down, {"num_warmup": 3})
    with pytest.raises(ConfigurationError, match="down needs num_warmup_steps, found none"):
        SchedulerFunction.of(down, {})


def test_a_function_that_makes_something_else() -> None:
    with pytest.raises(ConfigurationError, match=r"`schedulers\.number`: expected a scheduler, found int"):
        rates_of(lambda _: 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(StepLR, step_size=0), r"`schedulers\.number`: expected as `step_size` .* at least 1, found 0"),
        (partial(CosineAnnealingLR, T_max=0), r"`schedulers\.number`: expected as `T_max` .* at least 1, found 0"),
        (partial(ReduceLROnPlateau, monitor="train/loss", factor=2.0), "Factor should be < 1.0"),
        (partial(OneCycleLR, max_lr="x"), r"`schedulers\.number`: "),  # type: ignore[arg-type]  # the point of it
    ],
)
def test_errors_of_schedulers_name_the_group(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rates_of(make)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (partial(SGD, lr=-1.0), r"`optimizers\.\w+`: Invalid learning rate: -1"),
        (
            partial(SGD, lr=float("nan")),
            r"`optimizers\.\w+`: expected as `lr` .* found nan",
        ),
        (partial(SGD, lr=0.1, weight_decay=float("inf")), "expected as `weight_decay` .* found inf"),
    ],
)
def test_errors_of_optimizers_name_the_group(optimizer: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit(make_module(optimizers={"default": optimizer}), TRAIN, max_epochs=1)


def test_a_row_goes_on_from_its_state() -> None:
    parts: list[Any] = [partial(LinearLR, total_iters=5), partial(StepLR, step_size=3)]
    rows = [SequentialLR(SGD([nn.Parameter(torch.zeros(1))], lr=LR), parts, [5]) for _ in range(2)]
    for _ in range(7):
        rows[0].optimizer.step()
        rows[0].step()
    rows[1].load_state_dict(copy.deepcopy(rows[0].state_dict()))
    rows[1].optimizer.load_state_dict(rows[0].optimizer.state_dict())
    for _ in range(7):
        for row in rows:
            row.optimizer.step()
            row.step()
        assert rows[0].get_last_lr() == rows[1].get_last_lr()


def test_a_run_that_is_resumed_inside_an_epoch_goes_through_the_same_cycle(tmp_path: Path) -> None:
    """Counting the updates sets up the training loader, which must know all the same where it was left."""

    def trained(path: str | None, *callbacks: Any) -> dict[str, torch.Tensor]:
        data = SyntheticRegression(n=60, n_val=10, n_test=10, batch_size=10)
        module = MultiTaskModule(data.tasks, SharedBottom, data.input_spec, schedulers={"default": CYCLE})
        fit(module, data, ckpt_path=path, callbacks=[*callbacks], enable_checkpointing=True, max_epochs=2)
        return weights_of(module)

    torch.manual_seed(0)
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    whole = trained(None, saves)
    assert_same(trained(str(tmp_path / "step=4.ckpt")), whole)


# --------------------------------------------------------------------------------------------------------- from YAML
SHARED = "model.schedulers.default"
CYCLING = {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01}}
STEPS = {"class_path": "StepLR", "init_args": {"step_size": 1}}
PLATEAU = "ReduceLROnPlateau"
WATCHING = {"monitor": "val/loss"}
PARTS = [{"class_path": "LinearLR"}, {"class_path": "StepLR", "init_args": {"step_size": 1}}]
MINE = {"class_path": "tests.core.optim.test_schedulers.down", "init_args": {"num_warmup_steps": 0.5}}
YAMLS: dict[str, Any] = {
    "one cycle": CYCLING,
    "one cycle of a schedule": {"scheduler": CYCLING, "interval": "step"},
    "a row": {"class_path": "SequentialLR", "init_args": {"schedulers": PARTS, "milestones": [1]}},
    "a chain": {"class_path": "ChainedScheduler", "init_args": {"schedulers": PARTS}},
    "a function": MINE,
    "a function of a schedule": {"scheduler": MINE, "interval": "step"},
    "a function by its name": "tests.core.optim.test_schedulers.bare",
    "a share": {"scheduler": STEPS, "warmup": 0.5, "interval": "step"},
    "a plateau": {"scheduler": PLATEAU, **WATCHING},
    "a plateau with arguments": {"scheduler": {"class_path": PLATEAU, "init_args": {"patience": 0}}, **WATCHING},
    "a plateau with its own monitor": {"class_path": PLATEAU, "init_args": WATCHING},
    "a plateau of torch's": {"scheduler": {"class_path": f"torch.optim.lr_scheduler.{PLATEAU}"}, **WATCHING},
    "a plateau of Lightning's": {"class_path": f"lightning.pytorch.cli.{PLATEAU}", "init_args": WATCHING},
}


@pytest.mark.parametrize("name", some_of(YAMLS, 2))
def test_schedules_in_yaml(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    end = run(spoilt(SHARED, YAMLS[name]))
    assert end.code == 0, end.whole[-2000:]


def test_a_checkpoint_names_a_function_and_its_arguments(tmp_path: Path) -> None:
    by_name = {"number": Schedule(SchedulerFunction.of(down, {"num_warmup_steps": 5})), "default": bare}
    module = make_module(schedulers=by_name).float()
    fit(module, TRAIN, precision="32-true").save_checkpoint(tmp_path / "x.ckpt")
    assert module.by_code == {}
    with pytest.raises(CheckpointError, match=r"cannot be rebuilt: `schedulers.* trusted=\['tests"):
        MultiTaskModule.load_from_checkpoint(tmp_path / "x.ckpt")
    again = MultiTaskModule.load_from_checkpoint(tmp_path / "x.ckpt", trusted=["tests"])
    for one in (again, module):
        fit(one, TRAIN, precision="32-true")
    assert_same(weights_of(again), weights_of(module))


WRONG: dict[str, tuple[Any, list[str]]] = {
    "too few steps": (
        {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01, "total_steps": 1}},
        ["the 2 of the run"],
    ),
    "no monitor": ("ReduceLROnPlateau", ["`schedulers.shared`", "`monitor`"]),
    "a part misspelt": (
        {"class_path": "SequentialLR", "init_args": {"schedulers": [{"class_path": "LinaerLR"}], "milestones": []}},
        [f"{SHARED}.init_args.schedulers.0", "'LinearLR'"],
    ),
    "torch's own row": (
        {"class_path": "torch.optim.lr_scheduler.SequentialLR", "init_args": {"schedulers": PARTS, "milestones": [1]}},
        ["short name"],
    ),
    "an argument of a function misspelt": (
        {"class_path": MINE["class_path"], "init_args": {"num_warmup": 3}},
        [SHARED, "num_warmup_steps"],
    ),
    "a function that is not there": ("tests.core.optim.test_schedulers.dwon", [SHARED, "dwon"]),
}


@pytest.mark.parametrize(("schedule", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_schedules_in_yaml(
    schedule: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(spoilt(SHARED, schedule)).assert_one_message(*words)
