"""What a run writes: real event files and CSV files are read back."""

from __future__ import annotations

import csv
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoringPlateau
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import backend_context, metadata
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.balancing import FixedWeighting, UncertaintyWeighting
from mtl_lightning.core.network.fast_paths import fast_paths_allowed
from mtl_lightning.core.update import record
from tests.helpers import FACTORIES, TinyData, fit, make_batches, make_module, with_gaps

TASKS = tuple(FACTORIES)
GROUPS = ("shared", *TASKS, "balancer")
RATES = {"default": partial(Adam, lr=1e-3), "kind": partial(SGD, lr=0.1), "balancer": partial(Adam, lr=1e-2)}


def events(folder: Path) -> EventAccumulator:
    """Read all event files below a folder that hold the run's scalars; its line in the table of runs is apart."""
    (file,) = {path.parent for path in folder.rglob("events.out.tfevents.*")} - {*folder.rglob("best")}
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


def layout_of(folder: Path) -> dict[str, dict[str, list[str]]]:
    written = events(folder)
    layout = layout_pb2.Layout.FromString(written.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    return {page.title: {chart.title: list(chart.multiline.tag) for chart in page.chart} for page in layout.category}


def test_the_pages_overlay_tasks_and_groups_and_losses_stand_first(tmp_path: Path) -> None:
    module = make_module(balancer=UncertaintyWeighting)
    fit(module, make_batches(2), make_batches(2), logger=TensorBoardLogger(tmp_path), log_every_n_steps=1)
    pages = layout_of(tmp_path)
    assert list(pages) == ["losses", "weights", "rates", "conflict"]
    tags = events(tmp_path).Tags()["scalars"]
    found = {
        title: {tag for tag in tags if re.search(pattern, tag)}
        for page in ("losses", "weights", "rates")
        for title, (pattern,) in pages[page].items()
    }
    for title, stem, names in (
        ("losses", "train/loss", TASKS),
        ("validation losses", "val/loss", TASKS),
        ("sigmas", "train/sigma", TASKS),
        ("weights", "train/weight", TASKS),
        ("learning rates", "train/lr", GROUPS),
        ("gradient norms", "train/grad_norm", GROUPS),
    ):
        assert found[title] == {f"{stem}/{name}" for name in names}
    assert found["over those of constants"] == {"val/loss_normalised"}


def session(folder: Path) -> tuple[dict[str, Any], EventAccumulator]:
    """What a run was made with, as TensorBoard's table of runs reads it."""
    (best,) = folder.rglob("best")
    written = EventAccumulator(str(best))
    written.Reload()
    content = written.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: value.string_value or value.number_value for name, value in values.items()}, written


def test_the_table_of_runs_has_the_metrics_of_the_best_epoch(tmp_path: Path) -> None:
    """Validation rows are of another problem, so that training makes them worse: the best is not the last."""
    kept: list[dict[str, float]] = []

    class Witness(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            kept.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    rates = {"default": partial(Adam, lr=0.2)}
    module = make_module(balancer=partial(FixedWeighting, weights=[1.0, 2.0, 3.0]), optimizers=rates)
    options: dict[str, Any] = {"max_epochs": 3, "callbacks": [Witness()], "num_sanity_val_steps": 0}
    fit(module, make_batches(3), make_batches(3, seed=1), logger=TensorBoardLogger(tmp_path), **options)
    scores = [metrics["val/loss_normalised"] for metrics in kept]
    best = min(range(3), key=scores.__getitem__)
    assert best < 2
    values, written = session(tmp_path)
    for name, value in kept[best].items():
        if name.startswith("val/"):
            (event,) = written.Scalars(name)
            assert event.value == pytest.approx(value, rel=1e-6)
            at_best = [one for one in events(tmp_path).Scalars(name) if one.value == event.value]
            assert event.step in [one.step for one in at_best]
    assert {tag.partition("/")[0] for tag in written.Tags()["scalars"]} == {"val"}
    assert values["balancer"] == "FixedWeighting"
    assert values["balancer/weights"] == "[1.0, 2.0, 3.0]"
    assert values["optimizers/default"] == "Adam"
    assert values["optimizers/default/lr"] == 0.2
    assert (values["architecture"], values["architecture/encoder"]) == ("SharedBottom", "MLP")
    assert values["trainer/max_epochs"] == 3


def test_tensorboard_finds_what_differs_between_runs(tmp_path: Path) -> None:
    """Options that only one of the runs has among them, which TensorBoard drops from a list that a run gives."""
    balancers: list[Any] = [UncertaintyWeighting, partial(FixedWeighting, weights=[1.0, 2.0, 3.0])]
    for balancer in balancers:
        fit(make_module(balancer=balancer), TinyData(n=24), logger=TensorBoardLogger(tmp_path, name="runs"))
    provider = MultiplexerDataProvider(EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload(), str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider))
    ask = RequestContext()
    found = context.experiment_from_metadata(ask, "", True, context.hparams_metadata(ask, ""), [])
    differing = {info.name for info in found.hparam_infos if info.differs}
    assert differing == {"balancer"}
    assert "balancer/weights" in {info.name for info in found.hparam_infos}
    assert {info.name.tag for info in found.metric_infos} >= {"val/loss_normalised", "val/loss/kind"}
    assert all(info.name.tag.startswith("val/") for info in found.metric_infos)


def test_the_hyperparameters_are_in_the_loggers_file(tmp_path: Path) -> None:
    fit(make_module(), TinyData(n=24), logger=TensorBoardLogger(tmp_path), enable_checkpointing=True)
    (path,) = tmp_path.rglob("hparams.yaml")
    assert path.read_text().startswith("data:\n")


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


@pytest.mark.skipif(not fast_paths_allowed(), reason="the fast paths are off")
@pytest.mark.parametrize("options", [{}, {"max_steps": 5, "max_epochs": 2}, {"val_check_interval": 3}], ids=str)
def test_metrics_are_shown_late_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    shown: list[int] = []
    show = record.show

    def counted(values: Any, trainer: Trainer, dtype: torch.dtype) -> None:
        shown.append(trainer.global_step)
        show(values, trainer, dtype)

    monkeypatch.setattr(record, "show", counted)
    after, times = [], []
    for fast_paths in (True, False):
        shown.clear()
        saving = ModelCheckpoint("saved", monitor="val/loss")
        module = make_module(balancer=UncertaintyWeighting, fast_paths=fast_paths)
        data = make_batches(7)
        trainer = fit(module, data, data[:1], callbacks=[saving], log_every_n_steps=1, **options)
        after.append({name: value.item() for name, value in trainer.callback_metrics.items()})
        times.append([*shown])
    assert after[0] == after[1]
    updates = options.get("max_steps", 7)
    assert times[1] == [*range(1, updates + 1)]
    assert times[0] == ([3, 6, 7] if "val_check_interval" in options else [updates])


def test_what_looks_at_once_is_shown_at_once() -> None:
    read: list[float] = []

    class Looking(TrueLosses):
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            read.append(float(self.trainer.callback_metrics["train/loss"]))

    module, data = make_module(Looking), make_batches(4)
    fit(module, data, log_every_n_steps=1, max_steps=3)
    assert read == pytest.approx(true_losses(module)[:3])
    naming = ModelCheckpoint("saved", "{train/loss:.6f}", save_on_train_epoch_end=True, auto_insert_metric_name=False)
    fit(make_module(), data, callbacks=[naming], log_every_n_steps=1, max_steps=3)
    assert [path.name for path in Path("saved").iterdir()] == [f"{read[-1]:.6f}.ckpt"]
