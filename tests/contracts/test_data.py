"""What every exported datamodule promises; a new one is tested without editing this file.

A datamodule is made without arguments, or, where that takes a download or too long, with those that the function
``arguments(folder)`` of ``tests/data/datasets/fake_<its file>.py`` returns after writing whatever fake files it needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, get_origin

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from mtl_lightning import data as package
from mtl_lightning.data import MultiTaskDataModule, ResumableLoader
from mtl_lightning.describe import describe
from mtl_lightning.tasks import Task
from mtl_lightning.types import ConfigurationError, sample_inputs

Make: TypeAlias = Callable[..., MultiTaskDataModule]

EXPORTED = [getattr(package, name) for name in package.__all__]
CLASSES = [v for v in EXPORTED if inspect.isclass(v) and get_origin(v) is None]  # `dict[...]` is one in Python 3.10
DATAMODULES = [cls for cls in CLASSES if issubclass(cls, MultiTaskDataModule) and not inspect.isabstract(cls)]


@pytest.fixture(params=DATAMODULES, ids=lambda cls: str(cls.__name__))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A function that makes the datamodule, with changed arguments if asked for."""
    cls = request.param
    fake = f"tests.data.datasets.fake_{cls.__module__.rpartition('.')[2]}"
    plain = importlib.import_module(fake).arguments(tmp_path) if importlib.util.find_spec(fake) else {}

    def made(**changes: Any) -> MultiTaskDataModule:
        datamodule: MultiTaskDataModule = cls(**{**plain, **changes})
        return datamodule

    return made


def loaders(data: MultiTaskDataModule) -> list[ResumableLoader]:
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()]


def tensors(value: Any) -> dict[str, Tensor]:
    """The tensors of a batch by their path."""
    if isinstance(value, dict):
        return {f"{key}/{path}": leaf for key, part in value.items() for path, leaf in tensors(part).items()}
    assert isinstance(value, Tensor)
    return {"": value}


def same(first: Any, second: Any) -> bool:
    a, b = tensors(first), tensors(second)
    return {*a} == {*b} and all(torch.equal(a[path].nan_to_num(), b[path].nan_to_num()) for path in a)


def test_the_contract_is_tested_on_something() -> None:
    assert len(DATAMODULES) >= 2


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: str(cls.__name__))
def test_a_saved_file_names_a_class_by_the_package_alone(cls: type) -> None:
    """So that checkpoints and configs outlive the move of a file."""
    assert describe(cls) == {"class_path": f"mtl_lightning.data.{cls.__name__}"}


def test_tasks_and_input_spec_come_before_setup(make: Make) -> None:
    data = make()
    assert data.tasks
    assert all(isinstance(task, Task) and task.fitted for task in data.tasks.values())
    assert data.input_spec is not None


def test_inputs_are_as_the_input_spec_says(make: Make) -> None:
    data = make()
    assert data.input_spec is not None
    expected = tensors(sample_inputs(data.input_spec))
    for loader in loaders(data):
        found = tensors(next(iter(loader))["inputs"])
        assert {*found} == {*expected}
        for path, tensor in found.items():
            assert tensor.dtype == expected[path].dtype
            assert tensor.dim() == expected[path].dim()


def test_every_batch_keeps_the_contract(make: Make) -> None:
    data = make()
    for loader in loaders(data):
        for batch in loader:
            assert {"inputs"} <= {*batch} <= {"inputs", "targets", "weights"}
            rows = {len(tensor) for tensor in tensors(batch).values()}
            assert len(rows) == 1
            assert rows.pop() <= data.batch_size
            for name, target in batch.get("targets", {}).items():
                data.tasks[name].check(target)


def test_every_task_is_labelled_in_every_split(make: Make) -> None:
    data = make()
    for loader in loaders(data)[:3]:  # predict may do without labels
        counts = dict.fromkeys(data.tasks, 0.0)
        for batch in loader:
            for name, target in batch["targets"].items():
                counts[name] += float(data.tasks[name].count(target))
        assert min(counts.values()) > 0, counts


def test_the_length_is_exact(make: Make) -> None:
    assert all(len(loader) == len(list(loader)) for loader in loaders(make()))


def test_a_short_last_batch_is_left_out_of_training_alone(make: Make) -> None:
    whole = make().train_dataloader()
    rows = len(whole.order)
    size = next(size for size in range(2, rows) if rows % size)  # the last batch would be short
    data = make(batch_size=size, drop_last=True)
    loader, *others = loaders(data)
    sizes = [len(next(iter(tensors(batch["inputs"]).values()))) for batch in loader]
    assert sizes == [size] * (rows // size)
    assert len(loader) == len(sizes)
    for other in others:
        assert sum(len(next(iter(tensors(batch["inputs"]).values()))) for batch in other) == len(other.order)


def test_left_out_batches_that_leave_none_are_an_error(make: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"at least one full batch of batch_size=100000.*`drop_last`"):
        make(batch_size=100000, drop_last=True).train_dataloader()


def test_the_same_arguments_give_the_same_batches(make: Make) -> None:
    torch.manual_seed(0)
    first = [list(loader) for loader in loaders(make())]
    torch.manual_seed(1)
    second = [list(loader) for loader in loaders(make())]
    for one, other in zip(first, second, strict=True):
        assert all(same(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_has_the_same_rows_in_another_order(make: Make) -> None:
    loader = make().train_dataloader()
    found = []
    for epoch in range(2):
        loader.order.set_epoch(epoch)
        batches = [tensors(batch["inputs"]) for batch in loader]
        whole = {path: torch.cat([batch[path] for batch in batches]).flatten(1) for path in batches[0]}
        found.append({path: column.nan_to_num(1e30) for path, column in whole.items()})  # nan equals no nan
    first, second = (next(iter(columns.values())) for columns in found)
    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist())


def test_the_training_rows_are_not_those_of_validation_and_test(make: Make) -> None:
    splits = []
    for loader in loaders(make())[:3]:
        batches = [torch.cat([t.double().flatten(1) for t in tensors(batch["inputs"]).values()], 1) for batch in loader]
        splits.append({tuple(row) for row in torch.cat(batches).nan_to_num(1e30).tolist()})  # nan equals no nan
    train, val, test = splits
    assert not train & val
    assert not train & test
    assert not val & test


def test_an_interrupted_epoch_is_continued(make: Make) -> None:
    whole = list(make().train_dataloader())
    begun = make().train_dataloader()
    next(iter(begun))
    continued = make().train_dataloader()
    continued.load_state_dict(begun.state_dict())
    assert all(same(a, b) for a, b in zip(whole[1:], continued, strict=True))


def test_the_schema_goes_through_a_checkpoint(make: Make, tmp_path: Path) -> None:
    made = make()
    path = tmp_path / "made.ckpt"
    torch.save({"mtl_lightning": {"data": describe(made), "schema": made.schema}}, path)
    restored = MultiTaskDataModule.from_checkpoint(path)
    assert type(restored) is type(made)
    assert restored.schema == made.schema
    assert restored.input_spec == made.input_spec
    assert {name: task.spec for name, task in restored.tasks.items()} == {n: t.spec for n, t in made.tasks.items()}
    assert same(next(iter(restored.val_dataloader())), next(iter(made.val_dataloader())))


def test_a_task_is_overridden_from_yaml_without_sizes(make: Make) -> None:
    name, declared = next(iter(make().tasks.items()))
    described = describe(make())
    override = {name: {"class_path": describe(type(declared))["class_path"], "init_args": {"metrics": {}}}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultiTaskDataModule, "data")
    arguments = {**described.get("init_args", {}), "tasks": override}
    config = parser.parse_object({"data": {"class_path": described["class_path"], "init_args": arguments}})
    data = parser.instantiate(config).data
    assert type(data.tasks[name]) is type(declared)
    assert data.tasks[name].spec == declared.spec
    assert len(declared.metrics("val")) > len(data.tasks[name].metrics("val")) == 0


def test_a_removed_task_is_gone(make: Make) -> None:
    names = list(make().tasks)
    if len(names) == 1:
        pytest.skip("its only task cannot be removed")
    data = make(tasks={names[0]: None})
    assert list(data.tasks) == names[1:]
    for loader in loaders(data)[:3]:
        assert {*next(iter(loader))["targets"]} == {*names[1:]}


def test_a_task_that_the_data_does_not_declare_is_an_error(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="found 'nonsense' in `tasks`"):
        _ = make(tasks={"nonsense": None}).tasks
