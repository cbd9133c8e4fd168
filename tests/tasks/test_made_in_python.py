"""Tasks that are made without a spec of the data: by numbers, names and units; they train, and are saved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from mtl_lightning import MultiTaskModule
from mtl_lightning.describe import describe
from mtl_lightning.tasks import (
    BinaryClassification,
    DepthEstimation,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
    SemanticSegmentation,
    SurfaceNormals,
    Task,
)
from mtl_lightning.types import ConfigurationError, TargetSpec
from tests.helpers import fit, make_module, make_rows, make_trainer
from tests.tasks.test_yaml import parse


def test_arguments_say_what_a_spec_would() -> None:
    assert MulticlassClassification(num_classes=5).spec == TargetSpec(classes=5)
    assert MulticlassClassification(class_names=["a", "b"]).spec == TargetSpec(classes=2, names=("a", "b"))
    assert BinaryClassification().spec == TargetSpec()
    assert BinaryClassification(class_names=["no", "yes"]).decoding()["names"] == ["no", "yes"]
    assert MultilabelClassification(num_labels=12).spec == TargetSpec(shape=(12,), classes=12)
    assert Regression().spec == TargetSpec()
    assert Regression(units="EUR").decoding() == {"form": "values", "names": [], "units": "EUR"}
    assert Regression(num_outputs=3).spec == TargetSpec(shape=(3,))
    assert Regression(output_names=["x", "y"]).spec == TargetSpec(shape=(2,), names=("x", "y"))
    assert SemanticSegmentation(num_classes=7).spec == TargetSpec(classes=7)
    assert DepthEstimation(units="metres").spec.units == "metres"
    assert SurfaceNormals().spec == TargetSpec()


def test_what_the_data_leaves_open_is_said_by_arguments() -> None:
    named = MulticlassClassification(TargetSpec(classes=3), class_names=["a", "b", "c"])
    assert named.spec == TargetSpec(classes=3, names=("a", "b", "c"))
    assert MulticlassClassification(named.spec, num_classes=3, class_names=["a", "b", "c"]).spec == named.spec
    assert Regression(TargetSpec(shape=(2,)), units="mm").spec == TargetSpec(shape=(2,), units="mm")
    assert MultilabelClassification(TargetSpec(shape=(3,)), num_labels=3).output_size == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MulticlassClassification(TargetSpec(classes=4), num_classes=5), "`num_classes` .* 4, found 5"),
        (
            lambda: MulticlassClassification(TargetSpec(classes=2, names=("a", "b")), class_names=["b", "a"]),
            "`class_names` .*'a', 'b'.*, found .*'b', 'a'",
        ),
        (
            lambda: MulticlassClassification(num_classes=3, class_names=["a", "b"]),
            "3 names, as .*found 2",
        ),
        (lambda: MulticlassClassification(class_names=cast("Any", "abc")), "a list of names, found the text 'abc'"),
        (lambda: MulticlassClassification(cast("Any", 5)), "a TargetSpec, or none, .* found 5"),
        (lambda: MulticlassClassification(), "MulticlassClassification\\(num_classes=...\\)"),
        (lambda: MultilabelClassification(), "MultilabelClassification\\(num_labels=...\\)"),
        (lambda: MultilabelClassification(TargetSpec(shape=(3,)), num_labels=4), r"found \(3,\)"),
        (lambda: MultilabelClassification(TargetSpec(classes=3), num_labels=4), "`num_labels` .* 3, found 4"),
        (lambda: BinaryClassification(class_names=["a", "b", "c"]), "2 classes .* found 3"),
        (lambda: Regression(TargetSpec(), num_outputs=3), r"`num_outputs` .*\(\), found \(3,\)"),
        (lambda: Regression(TargetSpec(units="mm"), units="m"), "`units` .*'mm', found 'm'"),
        (lambda: Regression(num_outputs=0), "`num_outputs`: expected .* at least 1, found 0"),
        (lambda: DepthEstimation(TargetSpec(units="mm"), units="m"), "`units` .*'mm', found 'm'"),
        (lambda: SemanticSegmentation(TargetSpec(classes=4), num_classes=5), "`num_classes` .* 4, found 5"),
    ],
)
def test_contradictions_are_told(make: Callable[[], Task], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_module_of_such_tasks_trains_and_is_rebuilt_from_its_checkpoint(tmp_path: Path) -> None:
    tasks: dict[str, Task] = {
        "number": Regression(units="EUR"),
        "vector": Regression(output_names=["x", "y", "z"], loss="l1"),
        "kind": MulticlassClassification(num_classes=4),
        "sold": BinaryClassification(class_names=["no", "yes"]),
        "tags": MultilabelClassification(num_labels=3),
    }
    inputs, targets = make_rows(64)
    targets |= {"sold": (targets["number"] > 1).long(), "tags": (targets["vector"] > 0).long()}
    module = make_module(tasks=tasks)
    before = {name: float(loss) for name, loss in losses(module, inputs, targets).items()}
    trainer = fit(module, [{"inputs": inputs, "targets": targets}], max_epochs=30)
    after = losses(module, inputs, targets)
    assert all(after[name] < before[name] for name in tasks)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = MultiTaskModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert {name: task.spec for name, task in again.tasks.items()} == {name: t.spec for name, t in tasks.items()}
    assert {name: describe(task) for name, task in again.tasks.items()} == {n: describe(t) for n, t in tasks.items()}
    found = make_trainer().predict(again, torch.utils.data.DataLoader([{"inputs": inputs}], batch_size=None))  # type: ignore[arg-type]  # a list has rows
    assert found is not None


def losses(module: MultiTaskModule, inputs: torch.Tensor, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    outputs = module.double()(inputs)
    return {name: task.loss(outputs[name], targets[name]).detach() for name, task in module.tasks.items()}


def test_yaml_takes_the_spec_of_the_data_and_adds_to_it() -> None:
    task = parse("MulticlassClassification", class_names=["a", "b", "c"])(TargetSpec(classes=3))
    assert task.spec == TargetSpec(classes=3, names=("a", "b", "c"))
    with pytest.raises(ConfigurationError, match="found 4"):
        parse("MulticlassClassification", num_classes=4)(TargetSpec(classes=3))
    assert partial(Regression, units="mm")(TargetSpec()).spec.units == "mm"
