"""Baselines of single-task runs in a file, and what is logged in comparison with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]  # it ships no types
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.callbacks import BaselineWriter, LogDeltaM
from mtl_lightning.callbacks.baselines import merge_baselines, read_baselines
from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, MtlLightningWarning, TargetSpec
from tests.cli import CONFIGS, SMALL, only, run
from tests.helpers import TinyData, fit, loader_of, make_batches, make_module, make_tasks, make_trainer, without

UP = {"mae": False, "rmse": False, "accuracy": True, "f1": True}
BASELINES = {
    "val/mae/number": 0.8,
    "val/rmse/number": 1.1,
    "val/mae/vector": 1.2,
    "val/rmse/vector": 1.5,
    "val/accuracy/kind": 0.6,
    "val/f1/kind": 0.5,
}


def validated(*callbacks: Callback, module: MultiTaskModule | None = None, **options: Any) -> dict[str, float]:
    trainer = make_trainer(callbacks=[*callbacks], **options)
    trainer.validate(module or make_module(), loader_of(make_batches(3)), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


# --------------------------------------------------------------------------------------------------------------- logged
@pytest.mark.parametrize(
    ("options", "sign", "by_task"),
    [
        pytest.param({}, 1, False, id="the default"),
        pytest.param({"sign": "gain"}, -1, False, id="gain"),
        pytest.param({"weights": "task"}, 1, True, id="by task"),
    ],
)
def test_against_a_calculation_by_hand(options: dict[str, Any], sign: int, by_task: bool) -> None:
    given = {name: value for name, value in BASELINES.items() if name != "val/rmse/vector"}
    metrics = ["mae", "accuracy", "f1"]
    found = validated(LogDeltaM(dict(given), metrics=metrics, **options))
    drops: dict[str, list[float]] = {}
    for tag, baseline in given.items():
        _, metric, task = tag.split("/")
        if metric in metrics:
            drop = 100 * (found[tag] - baseline) / baseline * (-1 if UP[metric] else 1)
            drops.setdefault(task, []).append(sign * drop)
    for task, values in drops.items():
        assert found[f"val/delta_m/{task}"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    flat = [value for values in drops.values() for value in values]
    means = [sum(values) / len(values) for values in drops.values()]
    expected = sum(means) / 3 if by_task else sum(flat) / 4
    assert found["val/delta_m"] == pytest.approx(expected, rel=1e-5)


def test_losses_count_where_they_are_asked_for() -> None:
    module = make_module()
    losses = {f"val/loss/{task}": 2 * validated(module=module)[f"val/loss/{task}"] for task in module.tasks}
    found = validated(LogDeltaM(losses, metrics=["loss"]), module=module)
    assert found["val/delta_m"] == pytest.approx(-50)


def test_it_can_be_monitored() -> None:
    """By a checkpoint, and by a plateau scheduler, which steps before callbacks see the end of a validation."""
    seen = []

    class Seeing(ReduceLROnPlateau):
        def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]  # as torch's own
            seen.append(float(metrics))
            super().step(metrics, epoch)

    checkpoint = ModelCheckpoint("saved", monitor="val/delta_m", mode="min")
    module = make_module(schedulers={"kind": Schedule(Seeing, monitor="val/delta_m")})
    trainer = fit(
        module, make_batches(4), make_batches(2), callbacks=[checkpoint, LogDeltaM(dict(BASELINES))], max_epochs=3
    )
    assert len(seen) == 3
    assert seen[-1] == float(trainer.callback_metrics["val/delta_m"])
    assert checkpoint.best_model_score == min(seen)


def test_on_two_processes() -> None:
    found = []
    plans: list[tuple[int, dict[str, Any]]] = [(8, {}), (4, {"devices": 2, "strategy": "ddp_fork"})]
    for size, more in plans:
        data = TinyData(batch_size=size)
        trainer = fit(make_module(), data, callbacks=[LogDeltaM(dict(BASELINES))], precision="32-true", **more)
        found.append({n: float(v) for n, v in trainer.callback_metrics.items() if "delta_m" in n})
    assert len(found[0]) == 4
    assert found[1] == pytest.approx(found[0], abs=1e-3)


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": {**BASELINES, "val/mae/number": 0.0}}, r"found 0 of \['val/mae/number'\]"),
        ({"baselines": {"val/mae/number": 1.0}}, r"found none of \['val/rmse/number', 'val/mae/vector'.*Write them"),
        ({"baselines": {}}, r"found none of \['val/mae/number'"),
        ({"baselines": "nowhere.yaml"}, "YAML file of baselines at nowhere.yaml, which cannot be read"),
        ({"baselines": BASELINES, "metrics": ["mea"]}, r"names that a task has, found \['mea'\]"),
    ],
)
def test_what_is_missing_is_named_before_the_first_batch(options: dict[str, Any], message: str) -> None:
    class Unused(MultiTaskModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise AssertionError

    with pytest.raises(ConfigurationError, match=message):
        fit(make_module(Unused), make_batches(1), make_batches(1), callbacks=[LogDeltaM(**options)])


def test_a_metric_that_does_not_say_which_way_is_better() -> None:
    tasks = {"number": Regression(TargetSpec(), metrics={"own": MeanMetric})}
    baselines = {"val/own/number": 1.0}
    with pytest.raises(ConfigurationError, match=r"which way is better, found \['val/own/number'\]"):
        fit(make_module(tasks=tasks), make_batches(1), callbacks=[LogDeltaM(baselines)])
    fit(make_module(tasks=tasks), [], callbacks=[LogDeltaM(baselines, higher_is_better={"own": True})], max_epochs=0)


def test_a_stage_without_baselines_is_left_out() -> None:
    trainer = make_trainer(callbacks=[LogDeltaM(dict(BASELINES))])
    trainer.test(make_module(), loader_of(make_batches(2)), verbose=False)
    assert "test/loss" in trainer.callback_metrics
    assert not [name for name in trainer.callback_metrics if "delta_m" in name]


def test_a_task_without_a_label_leaves_it_out_with_a_warning() -> None:
    trainer = make_trainer(callbacks=[LogDeltaM(dict(BASELINES))])
    batches = [without(batch, "kind") for batch in make_batches(2)]
    with pytest.warns(MtlLightningWarning, match=r"no value of \['val/accuracy/kind', 'val/f1/kind'\]"):
        trainer.validate(make_module(), loader_of(batches), verbose=False)
    assert "val/delta_m" not in trainer.callback_metrics


# ------------------------------------------------------------------------------------------------------------- the file
def test_single_task_runs_write_one_file() -> None:
    path = Path("deep/baselines.yaml")
    values: dict[str, float] = {}
    for name in ("number", "vector", "kind"):
        module = make_module(tasks=make_tasks(name))
        batches = make_batches(3, tasks=[name])
        trainer = fit(module, batches, batches, callbacks=[BaselineWriter(path)], max_epochs=2)
        values |= {tag: float(v) for tag, v in trainer.callback_metrics.items() if tag.endswith(f"/{name}")}
    stored = {tag: value for tag, value in values.items() if tag.startswith("val/") and "labels" not in tag}
    assert read_baselines(path) == stored
    assert len(stored) == 9
    assert yaml.safe_load(path.read_text()) == stored
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")] == ["baselines.yaml"]
    found = validated(LogDeltaM(path))
    assert {f"val/delta_m/{name}" for name in ("number", "vector", "kind")} < {*found}
    merge_baselines(path, {tag: found[tag] for tag in stored})
    assert validated(LogDeltaM(path))["val/delta_m"] == pytest.approx(0, abs=1e-4)


def test_validate_and_test_write_too_and_leave_the_rest() -> None:
    path = Path("b.yaml")
    path.write_text("val/mae/other: 3\n")
    trainer = make_trainer(callbacks=[BaselineWriter(path), LogDeltaM(dict(BASELINES))])
    module, loader = make_module(), loader_of(make_batches(2))
    trainer.validate(module, loader, verbose=False)
    trainer.test(module, loader, verbose=False)
    written = read_baselines(path)
    assert written.pop("val/mae/other") == 3
    assert {name.split("/")[0] for name in written} == {"val", "test"}
    assert not [name for name in written if "delta_m" in name]
    assert written["val/accuracy/kind"] == written["test/accuracy/kind"]


@pytest.mark.parametrize("content", ["- 1\n", "val/mae/number: high\n", "val: {mae: 1}\n", "a: [\n"])
def test_a_file_of_something_else_is_refused_and_stays(content: str) -> None:
    Path("other.yaml").write_text(content)
    with pytest.raises(ConfigurationError, match=r"other\.yaml"):
        fit(make_module(), make_batches(1), callbacks=[BaselineWriter("other.yaml")])
    assert Path("other.yaml").read_text() == content


def test_a_value_that_is_not_finite_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(Callback):
        def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
            trainer.callback_metrics["val/loss/number"] = torch.tensor(float("nan"))

    batches = make_batches(1)
    fit(make_module(), batches, batches, callbacks=[Bad(), BaselineWriter("b.yaml")])
    written = read_baselines("b.yaml")
    assert "val/loss/number" not in written
    assert "val/loss/vector" in written


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ("--config", str(CONFIGS / "multidigit.yaml"), *SMALL, "--trainer.max_epochs=1")
    run(monkeypatch, "fit", *config, "--baseline_writer.path", "baselines.yaml")
    run(monkeypatch, "fit", *config, "--delta_m.baselines", "baselines.yaml", "--delta_m.weights", "task")
    baselines = read_baselines("baselines.yaml")
    assert {"val/accuracy/left", "test/accuracy/left"} <= {*baselines}
    saved = [yaml.safe_load(path.read_text()) for path in sorted(tmp_path.rglob("config.yaml"))]
    assert [config["delta_m"]["baselines"] for config in saved] == [None, "baselines.yaml"]
    assert only(tmp_path, "version_1").is_dir()
