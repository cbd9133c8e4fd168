"""Several datamodules as one: names, training, validation tags, checkpoints, processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, IterableDataset

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.data import (
    MultiDigit,
    MultiTaskDataModule,
    PerTaskData,
    ProportionalSampling,
    ResumableLoader,
    RoundRobinSampling,
    TaskFactory,
    TemperatureSampling,
    TensorRows,
)
from mtl_lightning.data.per_task.renaming import renamed
from mtl_lightning.tasks import Regression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict
from tests.core.checkpoint.test_resume import Interrupted, assert_same_end
from tests.helpers import (
    ForeignData,
    TinyData,
    assert_same,
    fit,
    loader_of,
    make_module,
    make_tasks,
    make_trainer,
    weights_of,
)


def named(order: Any) -> str:
    return order if isinstance(order, str) else type(order).__name__


class Lines(MultiTaskDataModule):
    """Noisy y = slope * sum of x, standardised; input of 4 numbers."""

    def __init__(self, *, slope: float = 1.0, n: int = 60, batch_size: int = 8, seed: int = 0) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.slope, self.sizes = slope, {"train": n, "val": 21, "test": 13}

    def read_schema(self) -> dict[str, Any]:
        return {"input_spec": input_spec_to_dict(TensorSpec((4,))), "slope": self.slope}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        return {"y": (TargetSpec(), lambda spec: Regression(spec, standardize=True))}

    def rows(self, split: Any) -> TensorRows:
        random = torch.Generator().manual_seed(self.seed * 10 + len(split))
        x = torch.randn(self.sizes[split], 4, generator=random)
        noise = torch.randn(len(x), generator=random)
        return TensorRows(x, {"y": self.slope * x.sum(1) + 0.1 * noise})


def three(batch_size: int = 8, **options: Any) -> PerTaskData:
    """Tasks up_y, down_y, and number, vector and kind."""
    data: dict[str, LightningDataModule] = {
        "up": Lines(slope=2.0, batch_size=batch_size),
        "down": Lines(slope=-3.0, n=20, seed=1, batch_size=batch_size),
        "tiny": TinyData(n=30, batch_size=batch_size),
    }
    return PerTaskData(data, **options)


def module_for(data: PerTaskData, **options: Any) -> MultiTaskModule:
    return make_module(tasks=data.tasks, input_spec=data.input_spec, **options)


# ------------------------------------------------------------------------------------------------------------ the names
def test_names_stay_unless_two_datasets_have_the_same() -> None:
    assert list(three().tasks) == ["up_y", "down_y", "number", "vector", "kind"]
    assert list(three(rename={"up": {"y": "rise"}}).tasks) == ["rise", "y", "number", "vector", "kind"]
    assert list(three(rename={"tiny": {"kind": None}}).tasks) == ["up_y", "down_y", "number", "vector"]


def test_each_task_is_fitted_by_its_own_dataset() -> None:
    tasks = three().tasks
    assert all(task.fitted for task in tasks.values())
    assert tasks["up_y"].target_scale == pytest.approx(4, rel=0.3)  # the slope times sqrt(4)
    assert tasks["down_y"].target_scale == pytest.approx(6, rel=0.3)


def test_targets_go_by_the_new_names() -> None:
    step = next(iter(three(rename={"tiny": {"kind": None}}, mode="max_size").train_dataloader()))
    found = {name: sorted(batch["targets"]) for name, batch in step.items()}
    assert found == {"up": ["up_y"], "down": ["down_y"], "tiny": ["number", "vector"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": {}}, "expected at least one datamodule"),
        ({"rename": {"up": "rise"}}, r"expected as `rename` \{dataset: \{task: new name\}\}, found \{'up': 'rise'\}"),
        ({"data": [Lines()]}, r"expected at least one datamodule by name in `data`, found a list"),
        ({"data": {"both": three()}}, r"of one dataset each, found several in \['both'\]"),
        ({"rename": {"left": {}}}, r"datasets of \['up', 'down', 'tiny'\], found \['left'\]"),
        ({"rename": {"up": {"z": "w"}}}, r"of 'up' tasks of \['y'\], found \['z'\]"),
        ({"rename": {"up": {"y": "a"}, "down": {"y": "a"}}}, r"found \['a'\] more than once"),
        ({"rename": {"up": {"y": None}}}, r"at least one task of every dataset, found none of \['up'\]"),
        ({"data": {"a": LightningDataModule()}}, "'a': expected a datamodule with an attribute `tasks`"),
        ({"mode": "max_size", "sampling": RoundRobinSampling()}, "a `mode` or a `sampling` policy"),
    ],
)
def test_names_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _ = PerTaskData(**{"data": three().data, **options}).tasks


def test_one_network_reads_all_inputs() -> None:
    assert three().input_spec == TensorSpec((4,))
    mixed = PerTaskData({"lines": Lines(), "digits": MultiDigit(sizes=(8, 8, 8))})
    with pytest.raises(ConfigurationError, match=r"\(4,\).* of 'lines' and .*\(1, 12, 12\).* of 'digits'"):
        _ = mixed.input_spec


# ------------------------------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("order", ["max_size_cycle", "min_size", TemperatureSampling(2.0)], ids=named)
def test_all_tasks_learn(order: Any) -> None:
    options = {"mode": order} if isinstance(order, str) else {"sampling": order}
    data = three(**options)
    module = module_for(data, optimizers={"default": partial(Adam, lr=0.02)})
    trainer = fit(module, data, max_epochs=25, precision="32-true", enable_checkpointing=False)
    assert trainer.global_step == 25 * len(data.train_dataloader())
    for name in ("up_y", "down_y"):
        assert trainer.callback_metrics[f"val/loss/{name}"] < 0.1  # of a variance of 1


def test_several_datasets_in_one_update_are_as_one_window() -> None:
    """A joint step is the update that a loader of ready-made dicts gives."""
    data = three(mode="max_size")
    steps = []
    for epoch in range(2):
        loader = three(mode="max_size").train_dataloader()
        loader.set_epoch(epoch)
        steps.append(list(loader))
    assert any(batch is None for batch in steps[0][-1].values())
    mine, ready = module_for(data), module_for(data)
    fit(mine, data, max_epochs=2, precision="32-true")
    fit(ready, loader_of([*steps[0], *steps[1]]), precision="32-true")
    assert_same(weights_of(mine), weights_of(ready))


class Counting(nn.Module):
    """Counts how often it is run, and on how many rows."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls, self.layer, self.out_features = calls, nn.Linear(4, 6), 6

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(inputs))
        features: torch.Tensor = self.layer(inputs).tanh()
        return features


def test_weights_go_by_the_new_names() -> None:
    weight, target = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    batch = {"inputs": torch.zeros(2, 1), "targets": {"y": target, "z": target}, "weights": {"y": weight, "z": weight}}
    found = renamed(batch, {"y": ["a", "b"], "z": []})
    assert found["inputs"] is batch["inputs"]
    assert found["targets"] == {"a": target, "b": target}
    assert found["weights"] == {"a": weight, "b": weight}
    assert renamed({**batch, "weights": weight}, {"y": ["a"]})["weights"] is weight


def test_rows_that_several_tasks_share_are_run_through_the_network_once() -> None:
    tiny = TinyData(n=24, batch_size=8)
    names: dict[str, dict[str, str | None]] = {"a": {"vector": None, "kind": None}, "b": {"number": None, "kind": None}}
    data = PerTaskData({"a": tiny, "b": tiny, "lines": Lines(n=24)}, mode="min_size", rename=names)
    assert list(data.tasks) == ["number", "vector", "y"]
    calls: list[int] = []
    fit(module_for(data, architecture=Counting(calls)), data, precision="32-true", limit_val_batches=0)
    assert calls == [8] * 6  # three steps of two datasets, not of three
    calls.clear()
    make_trainer(precision="32-true").validate(module_for(data, architecture=Counting(calls)), data, verbose=False)
    assert calls == [8, 8, 5] * 2
    labels = [sorted(batch["targets"]) for step in data.train_dataloader() for batch in step.values()]
    assert labels == [["number", "vector"], ["y"]] * 3


def test_the_same_datamodule_twice_with_all_its_tasks() -> None:
    tiny = TinyData(n=24)
    data = PerTaskData({"a": tiny, "b": tiny})
    assert list(data.tasks) == [f"{name}_{task}" for name in "ab" for task in ("number", "vector", "kind")]
    assert data.tasks["a_number"] is not data.tasks["b_number"]
    fit(module_for(data), data, precision="32-true")


class Foreign(ForeignData):
    """A user's own datamodule, with tasks and no input spec."""

    tasks = property(lambda _: make_tasks())


def test_datamodules_of_others_need_tasks_alone() -> None:
    data = PerTaskData({"own": Foreign(), "up": Lines()}, sampling=RoundRobinSampling())
    assert data.input_spec is None
    assert data.schema["datasets"]["own"] is None
    module = make_module(tasks=data.tasks, input_spec=None)  # sizes are read off the first batch of a dataset
    trainer = fit(module, data)
    assert trainer.global_step == 4 + 8
    assert {"val/loss/number", "val/loss/y"} <= {*trainer.callback_metrics}


@pytest.mark.parametrize(
    "order", ["max_size_cycle", "max_size", TemperatureSampling(2.0), ProportionalSampling()], ids=named
)
def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(order: Any) -> None:
    options: dict[str, Any] = {"mode": order} if isinstance(order, str) else {"sampling": order}
    steps = len(three(**options).train_dataloader())

    def run(seed: int, **more: Any) -> Any:
        data = three(**options)
        schedulers = {"default": partial(StepLR, step_size=1, gamma=0.7)}
        module = module_for(data, seed=seed, balancer=UncertaintyWeighting, schedulers=schedulers)
        return module, fit(module, data, max_epochs=2, precision="32-true", **more)

    for batch in (steps // 2, steps + steps - 2):
        whole = run(0, callbacks=[Interrupted(batch)])
        torch.load("saved/inside.ckpt", weights_only=True)
        assert_same_end(run(99, ckpt_path="saved/inside.ckpt"), whole)


def test_overfitting_sees_the_same_batches_every_epoch() -> None:
    data, seen = three(sampling=TemperatureSampling()), []

    class Noting(MultiTaskModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append({name: part["inputs"].sum().item() for name, part in batch.items()})
            return super().training_step(batch, batch_idx)

    module = make_module(Noting, tasks=data.tasks, input_spec=data.input_spec, allow_unlabelled=[*data.tasks])
    fit(module, data, max_epochs=3, overfit_batches=4, precision="32-true")
    assert len(seen) == 12
    assert seen[:4] == seen[4:8] == seen[8:]


# -------------------------------------------------------------------------------------------- validation, test, predict
@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_carry_the_tasks_name_alone(stage: str) -> None:
    data = three()
    module = module_for(data)
    trainer = make_trainer(precision="32-true")
    (trainer.validate if stage == "val" else trainer.test)(module, data, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert f"{stage}/accuracy/kind" in found
    assert {name.count("/") for name in found} == {1, 2}
    losses = [found[f"{stage}/loss/{name}"] for name in data.tasks]
    assert found[f"{stage}/loss"] == pytest.approx(sum(losses), rel=1e-6)
    for name, inner in data.data.items():
        (batch,) = ResumableLoader(getattr(inner, "rows")(stage), batch_size=100)  # noqa: B009  # of either class
        for key, target in batch["targets"].items():
            task = f"{name}_{key}" if name != "tiny" else key
            output = module(batch["inputs"])[task].detach()
            mean = data.tasks[task].loss(output, target) / data.tasks[task].count(target)
            assert found[f"{stage}/loss/{task}"] == pytest.approx(float(mean), rel=1e-5)


def test_predictions_of_each_dataset(tmp_path: Path) -> None:
    data = three()
    found = make_trainer(precision="32-true").predict(module_for(data), data)
    assert found is not None
    rows = [sum(len(batch["up_y"]) for batch in part) for part in found]
    assert rows == [13, 13, 21]
    assert sorted(found[0][0]) == sorted(data.tasks)


# ---------------------------------------------------------------------------------------------------- checkpoints, YAML
def test_the_schema_goes_through_a_checkpoint() -> None:
    data = three(sampling=TemperatureSampling(3.0), rename={"tiny": {"kind": None}})
    assert data.schema["datasets"]["up"]["slope"] == 2.0
    trainer = fit(module_for(data), data, precision="32-true", max_steps=2)
    trainer.save_checkpoint("made.ckpt")
    restored = PerTaskData.from_checkpoint("made.ckpt", trusted=["tests"])
    assert restored.schema == data.schema
    assert list(restored.tasks) == list(data.tasks)
    assert not restored.tasks["up_y"].fitted  # its statistics come with the module
    assert isinstance(restored.sampling, TemperatureSampling)
    first, other = (next(iter(made.train_dataloader())) for made in (data, restored))
    assert list(first) == list(other)
    assert torch.equal(*(next(iter(step.values()))["inputs"] for step in (first, other)))
    with pytest.raises(ConfigurationError, match=r"of the datasets \['up'\], found one of \['up', 'down', 'tiny'\]"):
        PerTaskData({"up": Lines()}).restore_schema(data.schema)


def test_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    text = """
    data:
      class_path: PerTaskData
      init_args:
        data:
          a: {class_path: SyntheticRegression, init_args: {num_tasks: 1}}
          b: {class_path: SyntheticRegression}
        rename: {b: {y2: null}}
        sampling: RoundRobinSampling
    """
    data = parser.instantiate(parser.parse_string(text)).data
    assert list(data.tasks) == ["a_y1", "b_y1"]
    assert isinstance(data.sampling, RoundRobinSampling)


# ------------------------------------------------------------------------------------------------------------ processes
@pytest.mark.parametrize("order", ["max_size", TemperatureSampling(2.0)], ids=named)
def test_two_processes_train_and_validate_as_one(order: Any) -> None:
    """Batches of 4 on each of two make the updates and metrics of batches of 8 on one; the splits are odd."""
    options: dict[str, Any] = {"mode": order} if isinstance(order, str) else {"sampling": order}
    found = []
    plans: list[tuple[int, dict[str, Any]]] = [(8, {}), (4, {"devices": 2, "strategy": "ddp_fork"})]
    for size, more in plans:
        data = three(batch_size=size, **options)
        module = module_for(data)
        trainer = fit(module, data, max_epochs=2, precision="32-true", **more)
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        found.append((weights_of(module), values))
    (one, values), (two, other_values) = found
    assert len(values) == 2 + (2 + 2) * 5
    assert values["val/labels/up_y"] == 21  # the rows that one process lacks count nowhere
    assert_same(two, one, atol=1e-5)
    assert other_values == pytest.approx(values, abs=1e-5)


# ----------------------------------------------------------------------------------------- several loaders in a dataset
class Several(Lines):
    """A dataset whose splits are in two parts."""

    def train_dataloader(self) -> Any:
        return [super().train_dataloader(), loader_of(list(super().val_dataloader()))]

    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), super().test_dataloader()]


@pytest.mark.parametrize("rename", [None, {"two": {"y": "line"}}], ids=["names kept", "renamed"])
def test_a_dataset_with_lists_of_loaders(rename: Any) -> None:
    data = PerTaskData({"two": Several(), "tiny": TinyData(n=30)}, rename=rename)
    task = "y" if rename is None else "line"
    assert list(data.train_dataloader().loaders) == ["two/0", "two/1", "tiny"]
    step = next(iter(data.train_dataloader()))
    assert [list(step[name]["targets"]) for name in ("two/0", "two/1")] == [[task], [task]]
    trainer = fit(module_for(data), data)
    losses = {key for key in trainer.callback_metrics if key.startswith("val") and key.endswith(f"loss/{task}")}
    assert losses == {f"val/two/0/loss/{task}", f"val/two/1/loss/{task}"}


class Endless(IterableDataset[Any]):
    """Rows that nobody has counted."""

    def __iter__(self) -> Any:
        return iter([{"inputs": torch.zeros(4), "targets": {"y": torch.zeros(())}}] * 6)


class Counted(Endless):
    def __len__(self) -> int:
        return 6


def streamed(dataset: Any) -> PerTaskData:
    class Streamed(Lines):
        def train_dataloader(self) -> Any:
            return DataLoader(dataset, 2)

        def val_dataloader(self) -> Any:
            return DataLoader(dataset, 2)

    return PerTaskData({"rows": Streamed(), "tiny": TinyData(n=30)}, rename={"rows": {"y": "line"}})


def test_rows_without_a_number_are_refused_in_training() -> None:
    data = streamed(Endless())
    with pytest.raises(
        ConfigurationError, match=r"'rows': expected a loader with a length, found DataLoader of Endless"
    ):
        fit(module_for(data), data)
    trainer = make_trainer()
    trainer.validate(module_for(data), data, verbose=False)  # where it need not be known
    assert "val/loss/line" in trainer.callback_metrics


def test_rows_with_a_number_train() -> None:
    data = streamed(Counted())
    trainer = fit(module_for(data), data)
    assert trainer.global_step == 4  # of 30 rows, in batches of 8
    assert "val/loss/line" in trainer.callback_metrics
