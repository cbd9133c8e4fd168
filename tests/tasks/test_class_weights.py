"""Weights of classes by how many training rows they have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jsonargparse import ArgumentParser

from mtl_lightning import MultiTaskModule
from mtl_lightning.data import MultiTaskDataModule, TableData
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, MultilabelClassification, Task
from mtl_lightning.types import ConfigurationError, TargetError
from tests.data.streaming.runs import NETWORK
from tests.helpers import fit

NAN = float("nan")
BALANCED: list[tuple[Any, dict[str, Any], list[Any]]] = [
    (BinaryClassification, {"pos_weight": "balanced"}, [0, 0, 0, 1, -100]),
    (MulticlassClassification, {"num_classes": 3, "class_weights": "balanced"}, [0, 0, 0, 2, -100]),
    (MultilabelClassification, {"num_labels": 2, "pos_weight": "balanced"}, [[0, 1], [0, 1], [0, 0], [1, -100]]),
]


def weights_of(task: Any) -> list[float]:
    found: list[float] = getattr(task, "class_weights" if hasattr(task, "class_weights") else "pos_weight").tolist()
    return found


@pytest.mark.parametrize(
    ("case", "expected"),
    [(BALANCED[0], [3.0]), (BALANCED[1], [4 / 6, 1.0, 4 / 2]), (BALANCED[2], [3.0, 0.5])],
)
def test_weights_by_hand(case: Any, expected: list[float]) -> None:
    cls, options, target = case
    task: Any = cls(**options)
    assert not task.fitted
    task.fit_target(torch.tensor(target))
    assert task.fitted
    assert weights_of(task) == pytest.approx(expected)
    task.fit_target(torch.tensor(target[-2:]))  # fitted once
    assert weights_of(task) == pytest.approx(expected)
    numbers = expected if len(expected) > 1 else expected[0]
    given = cls(**{name: numbers if value == "balanced" else value for name, value in options.items()})
    output, rows, sizes = torch.randn(4, task.output_size), torch.tensor(target[:4]), torch.ones(4)
    torch.testing.assert_close(task.loss(output, rows), given.loss(output, rows))
    trivial, usual = (one.trivial_prediction(one.picked(rows), sizes) for one in (task, given))
    torch.testing.assert_close(trivial, usual)
    torch.testing.assert_close(task.typical_output(trivial), given.typical_output(usual))


def test_all_classes_weigh_alike() -> None:
    task = MulticlassClassification(num_classes=3, class_weights="balanced")
    target = torch.tensor([0] * 90 + [1] * 9 + [2])
    task.fit_target(target)
    by_class = torch.zeros(3).index_add(0, target, task.class_weights[target])  # type: ignore[index]
    assert by_class.tolist() == pytest.approx([100 / 3] * 3)
    binary = BinaryClassification(pos_weight="balanced")
    binary.fit_target((target > 0).float())
    constant = binary.trivial_output(binary.trivial_prediction((target > 0).float(), torch.ones(100)))
    assert constant.tolist() == pytest.approx([0.0], abs=1e-6)  # no prior is left
    assert binary.typical_output(constant).tolist() == pytest.approx([math.log(1 / 9)], abs=1e-6)  # metrics see it


def test_classes_that_no_training_row_has() -> None:
    binary = BinaryClassification(pos_weight="balanced")
    binary.fit_target(torch.zeros(5))
    assert weights_of(binary) == [1.0]
    assert binary.loss(torch.zeros(2, 1), torch.ones(2)).isfinite()
    labels = MultilabelClassification(num_labels=2, pos_weight="balanced")
    labels.fit_target(torch.tensor([[1.0, 0.0], [1.0, 1.0], [NAN, 0.0]]))
    assert weights_of(labels) == [1.0, 2.0]


@pytest.mark.parametrize("case", BALANCED)
def test_what_is_not_known_is_told(case: Any) -> None:
    cls, options, target = case
    task: Task = cls(**options)
    rows = torch.tensor(target)
    with pytest.raises(ConfigurationError, match=r"='balanced'\): expected the weights to be fitted.*`fit_target`"):
        task.loss(torch.zeros(len(rows), task.output_size), rows)
    with pytest.raises(TargetError, match=r"expected labels in the training split, found none\. Give"):
        task.fit_target(torch.full_like(rows, -100))
    wrong = {name: "even" for name, value in options.items() if value == "balanced"}
    with pytest.raises(ConfigurationError, match="expected numbers or 'balanced', found 'even'"):
        cls(**{**options, **wrong})


@pytest.mark.parametrize("case", BALANCED)
def test_only_balanced_weights_are_in_state_dicts(case: Any) -> None:
    cls, options, target = case
    task, fresh = cls(**options), cls(**options)
    task.fit_target(torch.tensor(target))
    fresh.load_state_dict(task.state_dict())
    assert fresh.fitted
    assert weights_of(fresh) == weights_of(task)
    plain = {key: value for key, value in options.items() if value != "balanced"}
    assert cls(**plain).state_dict() == {}  # so that checkpoints of before load


# ------------------------------------------------------------------------------------------------------------- a table
def table(folder: Path) -> str:
    rows = range(120)
    columns = {
        "x": [float(row * 37 % 11) for row in rows],
        "click": ["yes" if row % 8 == 0 else "no" if row % 5 else None for row in rows],
        "kind": ["abc"[min(row % 7, 2)] for row in rows],
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return str(folder / "rows.parquet")


@pytest.mark.filterwarnings("ignore:No (positive|negative) samples:UserWarning")
@pytest.mark.parametrize("stream", [False, True])
def test_yaml_fits_a_table_in_memory_and_streamed(stream: bool, tmp_path: Path) -> None:
    path = "mtl_lightning.tasks."
    chosen = {
        "click": {"class_path": f"{path}BinaryClassification", "init_args": {"pos_weight": "balanced"}},
        "kind": {
            "class_path": f"{path}MulticlassClassification",
            "init_args": {"class_weights": "balanced", "focal": 2},
        },
    }
    arguments = {"path": table(tmp_path), "targets": ["click", "kind"], "tasks": chosen, "stream": stream}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultiTaskDataModule, "data")
    config = parser.parse_object({"data": {"class_path": "mtl_lightning.data.TableData", "init_args": arguments}})
    data: TableData = parser.instantiate(config).data
    batches = list(data.train_dataloader())
    clicks, kinds = (torch.cat([batch["targets"][name] for batch in batches]) for name in ("click", "kind"))
    clicks = clicks[~clicks.isnan()] if clicks.is_floating_point() else clicks[clicks != -100]
    counts = kinds.bincount(minlength=3)
    assert weights_of(data.tasks["click"]) == pytest.approx([float((clicks == 0).sum() / (clicks == 1).sum())])
    assert weights_of(data.tasks["kind"]) == pytest.approx((counts.sum() / (3 * counts)).tolist())

    module = MultiTaskModule(tasks=data.tasks, input_spec=data.input_spec, architecture=NETWORK)
    trainer = fit(module, data, precision="32-true", default_root_dir=tmp_path)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again: Any = MultiTaskModule.load_from_checkpoint(tmp_path / "one.ckpt")
    assert weights_of(again.tasks["click"]) == weights_of(data.tasks["click"])
    assert weights_of(again.tasks["kind"]) == weights_of(data.tasks["kind"])
    assert again.tasks["kind"].focal == 2
    assert trainer.global_step > 0
