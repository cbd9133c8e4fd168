"""What a run writes: real event files and CSV files are read back."""

from __future__ import annotations

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoringPlateau
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.balancing import FixedWeighting, UncertaintyWeighting
from mtl_lightning.core.update import record
from tests.helpers import FACTORIES, TinyData, fit, make_batches, make_module, with_gaps

TASKS = tuple(FACTORIES)
GROUPS = ("shared", *TASKS, "balancer")
RATES = {"default": partial(Adam, lr=1e-3), "kind": partial(SGD, lr=0.1), "balancer": partial(Adam, lr=1e-2)}


def events(folder: Path) -> EventAccumulator:
    """Read all event files below a folder that hold the run's scalars."""
    (file,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


class Witness(Callback):
    """Notes, after each update, what the module itself says."""

    def __init__(self) -> None:
        self.before: list[dict[str, float]] = []
        self.losses: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        self.before.append(pl_module.sigmas())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        self.losses.append(pl_module.updates.losses.tasks)


def test_every_tag_is_written_on_the_axis_of_updates(tmp_path: Path) -> None:
    module = make_module(balancer=UncertaintyWeighting, optimizers=RATES)
    fit(module, TinyData(n=40), max_epochs=2, logger=TensorBoardLogger(tmp_path), log_every_n_steps=2)
    written = events(tmp_path)
    train = {f"train/{kind}/{task}" for kind in ("loss", "labels", "sigma", "weight") for task in TASKS}
    train |= {f"train/{kind}/{group}" for kind in ("lr", "grad_norm") for group in GROUPS}
    val = {
        "val/loss",
        "val/loss_normalised",
        "val/objective",
        *(f"val/{kind}/{task}" for kind in ("loss", "labels") for task in TASKS),
    }
    val |= {"val/accuracy/kind", "val/f1/kind"}
    val |= {f"val/{metric}/{task}" for metric in ("mae", "rmse") for task in ("number", "vector")}
    scalars = {tag for tag in written.Tags()["scalars"] if not tag.startswith("hp/")}
    assert scalars == {*train, *val, "train/loss", "epoch"}
    for tag in (*train, "train/loss"):
        assert [event.step for event in written.Scalars(tag)] == [1, 3, 5, 7, 9], tag
    assert [event.step for event in written.Scalars("val/loss")] == [4, 9]
    assert [event.value for event in written.Scalars("train/lr/kind")] == pytest.approx([0.1] * 5)


def test_labels_are_counted_per_task_over_the_whole_window(tmp_path: Path) -> None:
    batches = with_gaps(make_batches(4))
    del batches[2]["targets"]["kind"], batches[3]["targets"]["kind"]
    logger = TensorBoardLogger(tmp_path)
    fit(make_module(), batches, logger=logger, log_every_n_steps=1, accumulate_grad_batches=2)
    written = events(tmp_path)
    for task in ("number", "vector"):
        counts = [float((~batch["targets"][task].isnan()).sum()) for batch in batches]
        found = [event.value for event in written.Scalars(f"train/labels/{task}")]
        assert found == [counts[0] + counts[1], counts[2] + counts[3]]
    kinds = sum(float((batch["targets"]["kind"] != -100).sum()) for batch in batches[:2])
    assert [event.value for event in written.Scalars("train/labels/kind")] == [kinds, 0]


def test_the_written_values_belong_to_one_update(tmp_path: Path) -> None:
    witness = Witness()
    module = make_module(balancer=UncertaintyWeighting, optimizers=RATES)
    logger = TensorBoardLogger(tmp_path)
    fit(module, make_batches(6), logger=logger, log_every_n_steps=1, callbacks=[witness])
    written = events(tmp_path)
    for step in range(6):
        row = {tag: written.Scalars(tag)[step].value for tag in written.Tags()["scalars"] if tag.startswith("train/")}
        objective = 0.0
        for index, (task, likelihood) in enumerate((name, module.tasks[name].likelihood) for name in TASKS):
            sigma, loss = witness.before[step][task], float(witness.losses[step][index])
            assert row[f"train/sigma/{task}"] == pytest.approx(sigma, rel=1e-6)
            assert row[f"train/loss/{task}"] == pytest.approx(loss, rel=1e-6)
            s = 2 * math.log(sigma) if likelihood.scale == "log_var" else math.log(sigma / math.sqrt(2))
            assert row[f"train/weight/{task}"] == pytest.approx(likelihood.a * math.exp(-s), rel=1e-5)
            objective += likelihood.a * math.exp(-s) * loss + likelihood.b * s
        assert row["train/loss"] == pytest.approx(objective, rel=1e-5)


def test_the_gradient_norm_is_that_of_the_unclipped_gradient(tmp_path: Path) -> None:
    sizes: list[float] = []

    class Norm(Callback):
        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, MultiTaskModule)
            grads = [p.grad for p in pl_module.groups["shared"].values() if p.grad is not None]
            sizes.append(float(torch.cat([grad.reshape(-1) for grad in grads]).norm()))

    logger = TensorBoardLogger(tmp_path)
    module = make_module(gradient_clip={"shared": 1e-3})
    fit(module, make_batches(3), logger=logger, log_every_n_steps=1, callbacks=[Norm()])
    assert [event.value for event in events(tmp_path).Scalars("train/grad_norm/shared")] == pytest.approx(sizes)


def test_an_absent_task_is_not_written(tmp_path: Path) -> None:
    batches = [batch if index else {**batch, "targets": {}} for index, batch in enumerate(make_batches(3))]
    batches[0]["targets"] = {"kind": make_batches(3)[0]["targets"]["kind"]}
    fit(make_module(), batches, logger=TensorBoardLogger(tmp_path), log_every_n_steps=1)
    written = events(tmp_path)
    assert [event.step for event in written.Scalars("train/loss/kind")] == [0, 1, 2]
    assert [event.step for event in written.Scalars("train/loss/number")] == [1, 2]


def test_the_layout_overlays_tasks(tmp_path: Path) -> None:
    fit(make_module(), make_batches(2), logger=TensorBoardLogger(tmp_path))
    written = events(tmp_path)
    layout = layout_pb2.Layout.FromString(written.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["losses"] == ["^train/loss/.*"]
    assert charts["sigmas"] == ["^train/sigma/.*"]


def test_hyperparameters_stand_beside_the_final_metrics(tmp_path: Path) -> None:
    module = make_module(balancer=partial(FixedWeighting, weights=[1.0, 2.0, 3.0]))
    trainer = fit(module, TinyData(n=24), logger=TensorBoardLogger(tmp_path, default_hp_metric=False))
    written = events(tmp_path)
    assert written.Scalars("hp/val/loss")[-1].value == pytest.approx(float(trainer.callback_metrics["val/loss"]))
    assert "_hparams_/session_start_info" in written.summary_metadata
    summary = written.summary_metadata["_hparams_/session_start_info"].plugin_data.content.decode("latin-1")
    assert "model/balancer/class_path" in summary
    assert "mtl_lightning.balancing.FixedWeighting" in summary


def test_any_logger_several_and_none(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "table")]
    fit(make_module(), make_batches(4), logger=loggers, log_every_n_steps=2)
    with (Path(loggers[1].log_dir or "") / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [1, 3]
    board = [event.value for event in events(tmp_path / "board").Scalars("train/loss/kind")]
    assert [float(row["train/loss/kind"]) for row in rows] == pytest.approx(board)
    assert (Path(loggers[1].log_dir or "") / "hparams.yaml").read_text().startswith("model:\n  architecture:")
    trainer = fit(make_module(), make_batches(4), logger=False)
    assert trainer.global_step == 4


def test_callbacks_can_monitor_training_without_a_logger() -> None:
    trainer = fit(make_module(balancer=UncertaintyWeighting), with_gaps(make_batches(3)), logger=False)
    assert {"train/loss", "train/loss/kind", "train/sigma/kind"} <= trainer.callback_metrics.keys()


def test_the_progress_bar_shows_a_loss_per_task(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(make_module(), make_batches(3), enable_progress_bar=True)
    assert {"loss", "loss/number", "loss/vector", "loss/kind"} <= trainer.progress_bar_metrics.keys()
    assert "loss/kind" in " ".join(capsys.readouterr().out.split())


def test_a_learning_rate_monitor_names_the_groups(tmp_path: Path) -> None:
    fit(
        make_module(balancer=UncertaintyWeighting, optimizers=RATES),
        make_batches(2),
        logger=TensorBoardLogger(tmp_path),
        log_every_n_steps=1,
        callbacks=[LearningRateMonitor()],
    )
    named = {tag.rpartition("/")[2] for tag in events(tmp_path).Tags()["scalars"] if tag.startswith("lr-")}
    assert named == set(GROUPS)


# ----------------------------------------------------------------------------------------- metrics between logged steps
class TrueLosses(MultiTaskModule):
    """Keeps the objective of every update."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.true: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        found: Any = super().training_step(batch, batch_idx)
        self.true.append(float(found["loss"]))
        return found


def true_losses(module: MultiTaskModule) -> list[float]:
    assert isinstance(module, TrueLosses)
    return module.true


def test_a_checkpoint_monitors_the_update_at_hand_and_not_the_last_logged_one() -> None:
    module = make_module(TrueLosses)
    monitoring = ModelCheckpoint("saved", "{step}", monitor="train/loss", every_n_train_steps=3, save_top_k=-1)
    fit(module, make_batches(7), callbacks=[monitoring], log_every_n_steps=5)
    found = [float(value) for value in monitoring.best_k_models.values()]
    assert found == pytest.approx([true_losses(module)[2], true_losses(module)[5]])
    assert monitoring.best_model_path.endswith(f"step={3 if found[0] < found[1] else 6}.ckpt")


def test_a_plateau_by_step_may_watch_a_loss_that_is_not_logged_yet() -> None:
    schedule = Schedule(partial(MonitoringPlateau, monitor="train/loss/kind", patience=100), interval="step")
    module = make_module(TrueLosses, schedulers={"shared": schedule})
    fit(module, make_batches(3), log_every_n_steps=50)
    state: Any = module.lr_schedulers()
    assert state.schedulers["shared"].scheduler.last_epoch == 3


def test_a_users_callback_reads_what_is_true() -> None:
    read: list[float] = []

    class Reading(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            read.append(float(trainer.callback_metrics["train/loss"]))

    module = make_module(TrueLosses)
    fit(module, make_batches(4), callbacks=[Reading()], log_every_n_steps=50)
    assert read == pytest.approx(true_losses(module))


def test_nobody_reads_and_nothing_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    values = record.Row.values

    def counted(row: record.Row) -> dict[str, float]:
        moved.append(1)
        return values(row)

    monkeypatch.setattr(record.Row, "values", counted)
    fit(make_module(), make_batches(6), callbacks=[ModelCheckpoint("saved", monitor="val/loss")], log_every_n_steps=3)
    assert len(moved) == 2
