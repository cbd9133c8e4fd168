from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from torch.utils.data import Dataset

from mtl_lightning.data import MultiTaskDataModule, ResumableLoader, Split, TaskFactory, TaskOverrides
from mtl_lightning.describe import describe
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict
from tests.data.tiny import Witness, quiet_trainer

SIZES: dict[Split, int] = {"train": 10, "val": 5, "test": 7}


class House(Dataset[Any]):
    """Row r: input r, price 3r (unknown where r is 4), kind r % 3."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> dict[str, Any]:
        price = float("nan") if row == 4 else 3.0 * row
        return {"inputs": torch.tensor([float(row)]), "targets": {"price": price, "kind": row % 3}}


class Houses(MultiTaskDataModule):
    """A dataset with a file: ``prepare_data`` writes it slowly, and never twice."""

    def __init__(
        self,
        *,
        root: str | Path,
        batch_size: int = 4,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers)
        self.root = Path(root)
        self.reads = 0

    def prepare_data(self) -> None:
        assert self.root is not None
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "kinds.txt"
        if path.exists():
            return
        with path.open("w") as file:
            for kind in ("flat", "hut", "villa"):
                file.write(f"{kind}\n")
                file.flush()
                time.sleep(0.02)

    def read_schema(self) -> dict[str, Any]:
        assert self.root is not None
        self.reads += 1
        kinds = (self.root / "kinds.txt").read_text().split()
        return {"input_spec": input_spec_to_dict(TensorSpec((1,))), "kinds": kinds}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        kinds = tuple(self.schema["kinds"])
        return {
            "price": (TargetSpec(units="euros"), partial(Regression, standardize=True)),
            "kind": (TargetSpec(classes=len(kinds), names=kinds), MulticlassClassification),
        }

    def rows(self, split: Split) -> Dataset[Any]:
        return House(SIZES[split])


def first(loader: ResumableLoader) -> Any:
    return next(iter(loader))


# -------------------------------------------------------------------------------------------------------------- schema
def test_tasks_and_sizes_are_known_before_setup(tmp_path: Path) -> None:
    data = Houses(root=tmp_path / "new")
    assert data.input_spec == TensorSpec((1,))
    assert {name: type(task) for name, task in data.tasks.items()} == {
        "price": Regression,
        "kind": MulticlassClassification,
    }
    assert data.tasks is data.tasks
    assert data.reads == 1


def test_tasks_are_fitted_on_the_labelled_training_rows(tmp_path: Path) -> None:
    price = Houses(root=tmp_path).tasks["price"]
    known = [3.0 * row for row in range(10) if row != 4]
    assert price.fitted
    assert price.target_scale == pytest.approx(np.std(known))


def test_processes_that_come_at_the_same_time_wait_for_the_data(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Houses(root=tmp_path).schema["kinds"], range(4)))
    assert found == [["flat", "hut", "villa"]] * 4


def test_rows_are_prepared_even_without_a_trainer(tmp_path: Path) -> None:
    Houses(root=tmp_path).test_dataloader()
    assert (tmp_path / "kinds.txt").exists()


def test_a_restored_schema_is_used_and_nothing_is_fitted(tmp_path: Path) -> None:
    saved = Houses(root=tmp_path).schema | {"kinds": ["only", "two"]}
    data = Houses(root=tmp_path)
    data.restore_schema(saved)
    assert data.tasks["kind"].output_size == 2
    assert not data.tasks["price"].fitted  # its statistics come with the module's checkpoint
    assert data.reads == 0


@pytest.mark.parametrize("use", [lambda data: data.schema, lambda data: data.tasks, lambda data: data.input_spec])
def test_a_schema_in_use_cannot_be_replaced(tmp_path: Path, use: Any) -> None:
    data = Houses(root=tmp_path)
    saved = Houses(root=tmp_path).schema
    use(data)
    with pytest.raises(ConfigurationError, match="restored before it is first used, found it in use"):
        data.restore_schema(saved)


def test_a_schema_that_is_not_plain_is_refused(tmp_path: Path) -> None:
    class Numbers(Houses):
        def read_schema(self) -> dict[str, Any]:
            return {**super().read_schema(), "mean": np.float64(1.0)}

    with pytest.raises(ConfigurationError, match=r"schema\['mean'\], found .* of type float64"):
        _ = Numbers(root=tmp_path).schema
    with pytest.raises(ConfigurationError, match=r"schema\['mean'\], found .* of type float64"):
        Houses(root=tmp_path).restore_schema({"mean": np.float64(1.0)})


# --------------------------------------------------------------------------------------------------------------- tasks
def test_overrides_are_merged_by_name(tmp_path: Path) -> None:
    data = Houses(root=tmp_path, tasks={"price": partial(Regression, loss="l1")})
    assert list(data.tasks) == ["price", "kind"]
    assert data.tasks["price"].likelihood.scale == "log_scale"
    assert data.tasks["price"].spec.units == "euros"


def test_a_removed_task_is_gone_from_the_batches(tmp_path: Path) -> None:
    data = Houses(root=tmp_path, tasks={"price": None})
    assert list(data.tasks) == ["kind"]
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert {*first(loader)["targets"]} == {"kind"}


def test_an_unknown_task_names_the_nearest(tmp_path: Path) -> None:
    data = Houses(root=tmp_path, tasks={"prize": None})
    with pytest.raises(ConfigurationError, match=r"declared ones \['price', 'kind'\], found 'prize'.* mean 'price'\?"):
        _ = data.tasks


def test_not_all_tasks_can_be_removed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least one task, found all of them removed"):
        _ = Houses(root=tmp_path, tasks={"price": None, "kind": None}).tasks


@pytest.mark.parametrize("wrong", [Regression(TargetSpec()), lambda spec: spec], ids=["an instance", "no task"])
def test_an_override_makes_a_task_of_a_target_spec(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="Task 'price': expected a task's class, or a function"):
        _ = Houses(root=tmp_path, tasks={"price": wrong}).tasks


def test_a_task_to_fit_needs_its_target_in_every_row(tmp_path: Path) -> None:
    class Silent(House):
        def __getitem__(self, row: int) -> dict[str, Any]:
            return {"inputs": torch.zeros(1), "targets": {"kind": 0}}

    class Unpriced(Houses):
        def rows(self, split: Split) -> Dataset[Any]:
            return Silent(SIZES[split])

    with pytest.raises(ConfigurationError, match="Unpriced: expected a target 'price' in every training row"):
        _ = Unpriced(root=tmp_path).tasks


def test_a_batch_has_at_least_a_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`batch_size`: expected .* at least 1, found 0"):
        Houses(root=tmp_path, batch_size=0)


# ------------------------------------------------------------------------------------------------------------- loaders
def test_padding_follows_the_tasks_own_missing_label(tmp_path: Path) -> None:
    data = Houses(root=tmp_path, tasks={"kind": partial(MulticlassClassification, ignore_index=255)})
    data.trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)  # two processes, not started
    assert data.val_dataloader().order.place() == (0, 2)
    shares = [
        ResumableLoader(House(5), batch_size=4, missing=data.missing_labels, num_replicas=2, rank=rank)
        for rank in range(2)
    ]
    targets = first(shares[1])["targets"]
    assert targets["kind"].tolist() == [1, 0, 255]
    assert targets["price"].isnan().tolist() == [False, False, True]
    for name, task in data.tasks.items():
        task.check(targets[name])
        assert task.count(targets[name]) == 2


def test_training_shuffles_and_the_rest_keeps_the_order(tmp_path: Path) -> None:
    data = Houses(root=tmp_path, batch_size=10)
    assert first(data.train_dataloader())["inputs"][:, 0].tolist() != list(range(10))
    assert first(data.val_dataloader())["inputs"][:, 0].tolist() == list(range(5))
    assert first(data.test_dataloader())["inputs"][:, 0].tolist() == list(range(7))
    assert first(data.predict_dataloader())["inputs"][:, 0].tolist() == list(range(7))


def test_no_row_is_made_up_for_predict(tmp_path: Path) -> None:
    data = Houses(root=tmp_path)
    assert data.test_dataloader().order.pad
    assert not data.predict_dataloader().order.pad


def test_another_seed_gives_another_order(tmp_path: Path) -> None:
    orders = {
        tuple(first(Houses(root=tmp_path, batch_size=10, seed=seed).train_dataloader())["inputs"][:, 0].tolist())
        for seed in range(3)
    }
    assert len(orders) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_with_a_datamodule_is_resumed(tmp_path: Path, workers: int) -> None:
    def train(**options: Any) -> tuple[Trainer, Witness]:
        trainer, module = quiet_trainer(tmp_path, max_epochs=2), Witness()
        trainer.fit(module, datamodule=Houses(root=tmp_path, num_workers=workers), **options)
        return trainer, module

    class Stopping(Witness):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.global_step == 2:
                self.trainer.save_checkpoint(tmp_path / "middle.ckpt")

    stopping = Stopping()
    quiet_trainer(tmp_path, max_epochs=2).fit(stopping, datamodule=Houses(root=tmp_path, num_workers=workers))
    _, whole = train()
    trainer, resumed = train(ckpt_path=tmp_path / "middle.ckpt")
    assert whole.trained == stopping.trained
    assert resumed.trained == whole.trained[2:]
    assert trainer.num_training_batches == 3


# ---------------------------------------------------------------------------------------------------- YAML, checkpoints
def from_yaml(text: str) -> tuple[MultiTaskDataModule, str]:
    """Make a datamodule as the command line does; also return the config as it would be saved."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultiTaskDataModule, "data")
    config = parser.parse_string(text)
    made: MultiTaskDataModule = parser.instantiate(config).data
    return made, str(parser.dump(config))


def test_tasks_are_overridden_and_removed_from_yaml(tmp_path: Path) -> None:
    data, saved = from_yaml(f"""
        data:
          class_path: tests.data.test_base.Houses
          init_args:
            root: {tmp_path}
            tasks:
              price: {{class_path: Regression, init_args: {{loss: huber, delta: 2.0, standardize: true}}}}
              kind: null
    """)
    again, _ = from_yaml(saved)
    for made in (data, again):
        assert list(made.tasks) == ["price"]
        price = made.tasks["price"]
        assert isinstance(price, Regression)
        assert price.fitted
        residual = torch.tensor([[3.0]]) * price.target_std + price.target_mean
        assert price.loss(torch.zeros(1, 1), residual[:, 0]).item() == pytest.approx(2.0 * (3.0 - 1.0))


def test_an_unknown_task_in_yaml_is_an_error(tmp_path: Path) -> None:
    houses = "class_path: tests.data.test_base.Houses"
    data, _ = from_yaml(f"data: {{{houses}, init_args: {{root: {tmp_path}, tasks: {{knd: null}}}}}}")
    with pytest.raises(ConfigurationError, match=r"found 'knd' in `tasks`\. Did you mean 'kind'\?"):
        _ = data.tasks


def checkpoint(path: Path, data: MultiTaskDataModule | None) -> Path:
    """Save what a module's checkpoint says of its datamodule."""
    saved = {"data": describe(data), "schema": None if data is None else data.schema}
    torch.save({"mtl_lightning": saved, "state_dict": {"weight": torch.zeros(2)}}, path)
    return path


def test_a_checkpoint_rebuilds_its_datamodule(tmp_path: Path) -> None:
    made = Houses(root=tmp_path, batch_size=3, tasks={"price": partial(Regression, loss="l1"), "kind": None})
    path = checkpoint(tmp_path / "a.ckpt", made)
    (tmp_path / "kinds.txt").write_text("changed since then")
    with pytest.raises(
        ConfigurationError, match=r"Houses, which has not been imported.*trusted=\['tests\.data\.test_base'\]"
    ):
        MultiTaskDataModule.from_checkpoint(path)
    for data in (Houses.from_checkpoint(path), MultiTaskDataModule.from_checkpoint(path, trusted=["tests"])):
        assert isinstance(data, Houses)
        assert data.schema == made.schema
        assert data.batch_size == 3
        assert data.tasks["price"].likelihood.scale == "log_scale"
        assert "kind" not in data.tasks
        assert data.reads == 0


def test_arguments_can_be_changed_when_a_datamodule_is_rebuilt(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", Houses(root=tmp_path))
    plain = Houses.from_checkpoint(path, root=tmp_path / "moved", tasks={"kind": None})
    assert (plain.root, list(plain.tasks)) == (tmp_path / "moved", ["price"])
    coded = Houses.from_checkpoint(path, tasks={"price": lambda spec: Regression(spec, loss="l1")})
    assert coded.tasks["price"].likelihood.scale == "log_scale"


@pytest.mark.parametrize("content", [{}, {"mtl_lightning": {"data": None, "schema": None, "config": {}}}])
def test_a_checkpoint_without_a_datamodule_says_so(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(ConfigurationError, match=r"b.ckpt: expected a checkpoint that describes its datamodule"):
        Houses.from_checkpoint(tmp_path / "b.ckpt")


def test_a_checkpoint_of_another_datamodule_is_refused(tmp_path: Path) -> None:
    class Flats(Houses):
        pass

    path = checkpoint(tmp_path / "c.ckpt", Houses(root=tmp_path))
    with pytest.raises(ConfigurationError, match=r"expected to make a Flats, found tests.data.test_base.Houses"):
        Flats.from_checkpoint(path)
    with pytest.raises(ConfigurationError, match=r"colour"):
        Houses.from_checkpoint(path, colour="red")


# -------------------------------------------------------------------------------------------- fewer rows than processes
def test_every_process_has_a_batch_though_there_are_fewer_rows(tmp_path: Path) -> None:
    """The rows that are made up have no labels."""
    data = Houses(root=tmp_path)
    data.trainer = Trainer(accelerator="cpu", devices=8, strategy="ddp", logger=False, default_root_dir=tmp_path)
    loader = data.val_dataloader()  # of 5 rows
    assert (len(loader), loader.order.place()) == (1, (0, 8))
    counts = []
    for rank in range(8):
        (batch,) = ResumableLoader(House(5), batch_size=4, missing=data.missing_labels, num_replicas=8, rank=rank)
        counts.append(int(data.tasks["kind"].count(batch["targets"]["kind"])))
    assert counts == [1] * 5 + [0] * 3


def test_rows_are_not_made_up_for_a_prediction(tmp_path: Path) -> None:
    data = Houses(root=tmp_path)
    data.trainer = Trainer(accelerator="cpu", devices=8, strategy="ddp", logger=False, default_root_dir=tmp_path)
    with pytest.raises(ConfigurationError, match=r"Houses: expected at least one row .* the 8 processes, found 7 rows"):
        data.predict_dataloader()
