"""Everything that counts updates behaves as under automatic optimization, for one group and for five."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from mtl_lightning.types import Batch
from tests.core.by_hand import HandLoop
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of

TRAIN, VAL = make_batches(10), make_batches(3, seed=4)
SGD_01 = partial(SGD, lr=0.1, momentum=0.9)
GROUPS: dict[str, dict[str, list[str]]] = {
    "one": {"all": ["*"]},
    "five": {"first": ["architecture.encoder.stages.0.*"]},
}
NAMES = {"one": ["all"], "five": ["shared", "number", "vector", "kind", "first"]}
ACCUMULATED = {"accumulate_grad_batches": 3, "limit_train_batches": 9, "max_epochs": 2}
each_number_of_groups = pytest.mark.parametrize("groups", GROUPS)


class Plain(LightningModule):
    """The same network and summed loss as an ordinary module with automatic optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_module()
        self.net.double()
        self.loop = HandLoop(self.net, {})

    def loss(self, batch: Batch) -> Tensor:
        return self.loop.objective(self.loop.means([batch]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), batch_size=len(batch["inputs"]))

    def configure_optimizers(self) -> Any:
        optimizer = SGD_01(self.net.parameters())
        return [optimizer], [{"scheduler": StepLR(optimizer, step_size=2), "name": "lr"}]


def pair(groups: str, callbacks: Callable[[], list[Any]] = list, **options: Any) -> tuple[Trainer, Trainer]:
    """Train ours and the plain module in the same way, each with callbacks and a folder of its own."""
    schedulers = {"default": partial(StepLR, step_size=2)}
    ours = make_module(groups=GROUPS[groups], optimizers={"default": SGD_01}, schedulers=schedulers)
    plain = Plain()
    trainers = [
        fit(module, TRAIN, VAL, callbacks=callbacks(), default_root_dir=folder, **options)
        for module, folder in ((ours, "ours"), (plain, "plain"))
    ]
    assert sorted(ours.groups) == sorted(NAMES[groups])
    assert_same(weights_of(ours), weights_of(plain.net), atol=1e-10)
    return trainers[0], trainers[1]


@each_number_of_groups
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        pytest.param({"max_epochs": 2}, 20, id="max_epochs"),
        pytest.param({"max_steps": 7, "max_epochs": -1}, 7, id="max_steps"),
        pytest.param({"max_steps": 14, "max_epochs": -1}, 14, id="max_steps in the second epoch"),
        pytest.param({"fast_dev_run": 3}, 3, id="fast_dev_run"),
        pytest.param({"limit_train_batches": 4, "max_epochs": 2}, 8, id="limit_train_batches"),
        pytest.param({"overfit_batches": 2, "max_epochs": 2}, 4, id="overfit_batches"),
        pytest.param(ACCUMULATED, 6, id="accumulate_grad_batches"),
        pytest.param({**ACCUMULATED, "max_steps": 5}, 5, id="accumulated max_steps"),
    ],
)
def test_steps_and_epochs(groups: str, options: dict[str, Any], steps: int) -> None:
    ours, plain = pair(groups, **options)
    assert ours.global_step == plain.global_step == steps
    assert ours.current_epoch == plain.current_epoch
    assert ours.fit_loop.total_batch_idx == plain.fit_loop.total_batch_idx


@each_number_of_groups
def test_a_last_partial_window_counts_as_an_update(groups: str) -> None:
    module = make_module(groups=GROUPS[groups], optimizers={"default": SGD_01})
    trainers = [fit(model, TRAIN, accumulate_grad_batches=3, max_epochs=2) for model in (module, Plain())]
    assert [trainer.global_step for trainer in trainers] == [8, 8]  # windows of 3, 3, 3 and 1 batches


class Impatient(EarlyStopping):
    """Stops at the first validation."""

    def __init__(self) -> None:
        super().__init__("val/loss", stopping_threshold=1e9)


@each_number_of_groups
def test_min_steps_holds_off_a_stop(groups: str) -> None:
    ours, plain = pair(groups, lambda: [Impatient()], min_steps=25, max_epochs=6)
    assert ours.global_step == plain.global_step == 25


@each_number_of_groups
def test_early_stopping(groups: str) -> None:
    make = partial(EarlyStopping, "val/loss", patience=1, min_delta=0.3)
    ours, plain = pair(groups, lambda: [make()], max_epochs=9)
    stopped = [cast("EarlyStopping", trainer.early_stopping_callback).stopped_epoch for trainer in (ours, plain)]
    assert stopped[0] == stopped[1] > 0
    assert ours.global_step == plain.global_step < 90


def files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).rglob("*.ckpt"))


@each_number_of_groups
@pytest.mark.parametrize("accumulate", [1, 3], ids=["one batch", "three batches"])
def test_checkpoints_every_few_updates(groups: str, accumulate: int) -> None:
    make = partial(ModelCheckpoint, every_n_train_steps=3, save_top_k=-1)
    if accumulate == 1:
        pair(groups, lambda: [make()], max_epochs=2)
        assert files("ours") == files("plain")
        expected = [(0, 3), (0, 6), (0, 9), (1, 12), (1, 15), (1, 18)]
    else:  # windows of 3, 3, 3 and 1 batches; the plain module would divide the last one by 3
        module = make_module(groups=GROUPS[groups], optimizers={"default": SGD_01})
        fit(module, TRAIN, callbacks=[make()], default_root_dir="ours", accumulate_grad_batches=3, max_epochs=2)
        expected = [(0, 3), (1, 6)]
    assert files("ours") == [f"epoch={epoch}-step={step}.ckpt" for epoch, step in sorted(expected, key=str)]


@each_number_of_groups
def test_the_best_checkpoint(groups: str) -> None:
    make = partial(ModelCheckpoint, monitor="val/loss", filename="{step}", save_top_k=2)
    trainers = pair(groups, lambda: [make()], max_epochs=4)
    assert files("ours") == files("plain")
    best = [cast("ModelCheckpoint", trainer.checkpoint_callback).best_model_score for trainer in trainers]
    assert float(cast("Tensor", best[0])) == pytest.approx(float(cast("Tensor", best[1])), abs=1e-6)


# -------------------------------------------------------------------------------------------------------------- records
def rows(trainer: Trainer) -> list[dict[str, str]]:
    """What was written, without empty cells."""
    with (Path(cast("CSVLogger", trainer.logger).log_dir) / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def axis(trainer: Trainer, name: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row[name])) for row in rows(trainer) if name in row]


def logged(groups: str, **options: Any) -> tuple[Trainer, Trainer]:
    found = []
    schedulers = {"default": partial(StepLR, step_size=2)}
    ours = make_module(groups=GROUPS[groups], optimizers={"default": SGD_01}, schedulers=schedulers)
    for module, folder in ((ours, "ours"), (Plain(), "plain")):
        monitor = LearningRateMonitor(logging_interval="step")
        options = {"log_every_n_steps": 2, "max_epochs": 3, **options}
        found.append(fit(module, TRAIN, VAL, callbacks=[monitor], logger=CSVLogger(folder), **options))
    return found[0], found[1]


@each_number_of_groups
def test_the_logged_step_axis_and_values(groups: str) -> None:
    ours, plain = logged(groups)
    steps = [step for step, _ in axis(ours, "train/loss")]
    assert steps == list(range(1, 30, 2))  # update n is written at step n - 1
    for name in ("train/loss", "val/loss", "epoch"):
        found, expected = axis(ours, name), axis(plain, name)
        assert [step for step, _ in found] == [step for step, _ in expected], name
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-5), name


@each_number_of_groups
def test_a_learning_rate_monitor_has_a_key_per_group(groups: str) -> None:
    ours, plain = logged(groups)
    keys = [f"lr/{name}" if len(NAMES[groups]) > 1 else "lr/all" for name in NAMES[groups]]
    for key in keys:
        assert axis(ours, key) == axis(plain, "lr")
    assert sorted(key for row in rows(ours) for key in row if key.startswith("lr")).count(keys[0]) == 15


@each_number_of_groups
def test_accumulated_batches_are_recorded_by_update(groups: str) -> None:
    module = make_module(groups=GROUPS[groups], optimizers={"default": SGD_01})
    logger = CSVLogger("ours")
    trainer = fit(module, TRAIN, VAL, logger=logger, accumulate_grad_batches=3, max_epochs=2, log_every_n_steps=2)
    assert trainer.global_step == 8
    assert [step for step, _ in axis(trainer, "train/loss")] == [1, 3, 5, 7]
    assert [step for step, _ in axis(trainer, "val/loss")] == [3, 7]
