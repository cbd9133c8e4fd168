"""A shop's table with every kind of column and target trains from a short YAML, and beats constants in each metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning.callbacks import ConstantMetrics
from mtl_lightning.cli import MultiTaskCLI
from mtl_lightning.data import TableData
from mtl_lightning.nested import leaves
from tests.data.make_business import CAUSES, write_business

CONFIG = """\
seed_everything: 0
data:
  class_path: TableData
  init_args:
    path: sales.csv
    targets:
      click: {}
      dwell: {kind: number}
      amount: {kind: number}
      rating: {kind: ordinal}
      churn: {column: days, event: churned}
    tasks: {amount: ZeroInflatedLogNormal}
    hashed: {user_id: 100000}
    lists: {tags: "|"}
    text: [title]
model:
  architecture: {class_path: SharedBottom, init_args: {encoder: TabularEncoder}}
  optimizers: {default: {class_path: Adam, init_args: {lr: 3.0e-3}}}
trainer: {max_epochs: 5}
"""
TASKS = ["click", "dwell", "amount", "rating", "churn"]
QUIET = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false",
         "--trainer.enable_model_summary=false"]  # fmt: skip


class Outcome(NamedTuple):
    """What a run's test found, by tags such as ``mae/dwell``."""

    data: TableData
    reached: dict[str, float]
    constant: dict[str, float]
    higher: dict[str, bool]  # whether a metric is better when it is higher


def trained(folder: Path, rows: int, users: int, *options: str) -> Outcome:
    """Train by :data:`CONFIG` on a table in ``folder``, the current one, and test the best epoch."""
    write_business(folder / "sales.csv", rows, users)
    (folder / "sales.yaml").write_text(CONFIG)
    made = MultiTaskCLI(args=["fit", "--config=sales.yaml", *QUIET, *options], save_config_callback=None)
    (found,) = made.trainer.test(made.model, datamodule=made.datamodule, ckpt_path="best", verbose=False)
    trainer, data = cast("Any", made.trainer), cast("Any", made.datamodule)
    constants = next(callback for callback in trainer.callbacks if isinstance(callback, ConstantMetrics)).values
    higher = {f"loss/{name}": False for name in data.tasks}
    for name, task in data.tasks.items():
        better = {metric: scored.higher_is_better for metric, scored in task.metrics("test").items()}
        higher |= {f"{metric}/{name}": bool(way) for metric, way in better.items() if way is not None}
    reached, constant = ({tag.removeprefix("test/"): float(tags[tag]) for tag in tags} for tags in (found, constants))
    return Outcome(data, reached, constant, higher)


@pytest.mark.slow
def test_a_yaml_of_under_twenty_lines_uses_every_column_and_beats_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CONFIG.count("\n") < 20
    made = trained(tmp_path, 8000, 100, "--data.init_args.batch_size=128")
    assert list(made.data.tasks) == TASKS
    check(made)


@pytest.mark.slow
def test_a_table_of_fifty_thousand_users_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(trained(tmp_path, 200_000, 50_000))


def test_streamed_it_has_the_same_schema_and_numbers(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.parquet" for name in ("train", "val", "test")}
    for seed, path in enumerate(paths.values()):
        write_business(path, 500, 40, seed=seed)
    options = yaml.safe_load(CONFIG)["data"]["init_args"]
    options |= {name: str(path) for name, path in paths.items()} | {"path": None, "tasks": None}
    memory, streamed = (TableData(**options, batch_size=500, stream=stream) for stream in (False, True))
    assert memory.schema == streamed.schema
    assert memory.input_spec == streamed.input_spec
    for one, other in zip(memory.test_dataloader(), streamed.test_dataloader(), strict=True):
        leaves_of_one, leaves_of_other = dict(leaves(one)), dict(leaves(other))
        assert {*leaves_of_one} == {*leaves_of_other}
        for place, tensor in leaves_of_one.items():
            torch.testing.assert_close(tensor, leaves_of_other[place], equal_nan=True, rtol=0, atol=0)


def check(made: Outcome) -> None:
    assert {*made.higher} >= {f"loss/{name}" for name in TASKS} | {
        "auroc/click",
        "mae/dwell",
        "kappa/rating",
        "concordance/churn",
    }
    used = {column for column in CAUSES if any(column in feature for feature in features(made.data))}
    assert used == {*CAUSES}
    worse = {
        tag: (made.reached[tag], made.constant[tag])
        for tag, up in made.higher.items()
        if (made.reached[tag] <= made.constant[tag] if up else made.reached[tag] >= made.constant[tag])
    }
    assert worse == {}


def features(data: TableData) -> list[str]:
    spec: Any = data.input_spec
    return [*spec.numeric, *spec.categorical, *spec.lists]
