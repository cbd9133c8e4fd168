"""Outputs are what a calibration says, of a network, in a checkpoint and when traced; a broken one is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning import MultiTaskModule
from mtl_lightning.core.network.calibration import calibrated, misfit
from mtl_lightning.core.network.final import FinalNetwork
from mtl_lightning.errors import CheckpointError
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, MultilabelClassification, Regression
from mtl_lightning.types import TargetSpec
from tests.helpers import INPUTS, fit, make_module

ISOTONIC = {"method": "isotonic", "x": [[-1.0, 0.0, 2.0]], "y": [[0.1, 0.4, 0.9]]}
INTERVAL = {"method": "conformal", "coverage": 0.9, "half_width": [2.0], "by": None, "groups": None}
CALIBRATION: dict[str, Any] = {
    "kind": {"method": "temperature", "temperature": 3.0},
    "bought": {"method": "platt", "slope": [0.5], "intercept": [-1.0]},
    "clicked": ISOTONIC,
    "tags": {"method": "isotonic", "x": [[0.0], [-1.0, 1.0]], "y": [[0.25], [0.25, 0.75]]},
    "number": INTERVAL,
}
TASKS = {
    "kind": MulticlassClassification(TargetSpec(classes=4)),
    "bought": BinaryClassification(TargetSpec()),
    "clicked": BinaryClassification(TargetSpec()),
    "tags": MultilabelClassification(TargetSpec(classes=2)),
    "number": Regression(TargetSpec()),
}
X = torch.randn(6, INPUTS, generator=torch.Generator().manual_seed(0))


def logits(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def test_by_hand() -> None:
    pair = torch.tensor([[3.0, -6.0]])
    assert calibrated(pair, CALIBRATION["kind"]).tolist() == [[1.0, -2.0]]
    assert calibrated(logits(4.0), CALIBRATION["bought"]).tolist() == [[1.0]]
    probabilities = calibrated(logits(-9.0, -1.0, -0.5, 0.0, 1.0, 2.0, 7.0), ISOTONIC).sigmoid()[:, 0]
    torch.testing.assert_close(probabilities, torch.tensor([0.1, 0.1, 0.25, 0.4, 0.65, 0.9, 0.9]))
    both = calibrated(torch.tensor([[5.0, 0.0]]), CALIBRATION["tags"]).sigmoid()
    torch.testing.assert_close(both, torch.tensor([[0.25, 0.5]]))
    assert calibrated(pair, INTERVAL) is pair
    assert calibrated(pair, None) is pair


def test_a_network_predicts_calibrated() -> None:
    module = make_module(tasks=TASKS)
    raw, before = module(X), module.predict(X)
    module.calibration = CALIBRATION
    found, final = module.predict(X), FinalNetwork(module)(X)
    torch.testing.assert_close(found["kind"]["probability"], (raw["kind"] / 3).softmax(-1))
    torch.testing.assert_close(found["bought"]["probability"], (raw["bought"][:, 0] / 2 - 1).sigmoid())
    torch.testing.assert_close(found["number"], before["number"], rtol=0, atol=0)
    for name in TASKS:
        wanted = found[name] if name == "number" else found[name]["probability"]
        torch.testing.assert_close(final[name], wanted, rtol=0, atol=0)


def test_it_can_be_traced() -> None:
    module = make_module(tasks=TASKS)
    module.calibration = CALIBRATION
    final = FinalNetwork(module)
    rows = torch.export.Dim("rows")
    program = torch.export.export(final, (X,), dynamic_shapes=({0: rows},)).module()
    more = torch.randn(9, INPUTS) * 3
    torch.testing.assert_close(program(more), final(more))


# ---------------------------------------------------------------------------------------------------------- checkpoints
@pytest.fixture
def saved(tmp_path: Path) -> Path:
    module = make_module(tasks=copy.deepcopy(TASKS), allow_unlabelled=[*TASKS])
    trainer = fit(module, [{"inputs": X.double(), "targets": {"kind": torch.zeros(len(X), dtype=torch.long)}}])
    assert module.calibration is None
    module.calibration = CALIBRATION
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def test_a_checkpoint_keeps_it(saved: Path) -> None:
    loaded = MultiTaskModule.load_from_checkpoint(saved)
    assert loaded.calibration == CALIBRATION
    fewer = {name: TASKS[name] for name in ("kind", "number")}
    other = MultiTaskModule.load_from_checkpoint(saved, strict=False, tasks=fewer, allow_unlabelled=[])
    assert other.calibration is None


def test_one_without_is_read(saved: Path) -> None:
    older = torch.load(saved, weights_only=True)
    del older["mtl_lightning"]["calibration"]
    torch.save(older, saved)
    assert MultiTaskModule.load_from_checkpoint(saved).calibration is None


BROKEN: list[tuple[str, Any]] = [
    ("kind", {"method": "temperature", "temperature": 0.0}),
    ("kind", {"method": "temperature", "temperature": float("nan")}),
    ("kind", {"method": "temperature", "temperature": 10**400}),
    ("kind", {"method": "temperature", "temperature": True}),
    ("kind", {"method": "platt", "slope": [1.0] * 4, "intercept": [0.0] * 4}),
    ("kind", {"temperature": 1.0}),
    ("kind", 3.0),
    ("bought", {"method": "platt", "slope": [1.0, 1.0], "intercept": [0.0, 0.0]}),
    ("bought", {"method": "platt", "slope": ["1"], "intercept": [0.0]}),
    ("bought", {"method": "platt", "slope": [1.0]}),
    ("clicked", {**ISOTONIC, "y": [[0.1, 0.4]]}),
    ("clicked", {**ISOTONIC, "y": [[0.1, 0.4, 1.0]]}),
    ("clicked", {**ISOTONIC, "x": [[0.0, 0.0, 2.0]]}),
    ("clicked", {**ISOTONIC, "x": [[]], "y": [[]]}),
    ("clicked", {**ISOTONIC, "x": [], "y": []}),
    ("number", {**INTERVAL, "coverage": 1.0}),
    ("number", {**INTERVAL, "half_width": [-1.0]}),
    ("number", {**INTERVAL, "half_width": [1.0, 2.0]}),
    ("number", {**INTERVAL, "by": 3}),
    ("number", {**INTERVAL, "by": "city", "groups": {"Bern": [1.0, 2.0]}}),
    ("number", {**INTERVAL, "by": "city", "groups": [1.0]}),
    ("number", {**INTERVAL, "by": "city", "groups": {3: [1.0]}}),
]


@pytest.mark.parametrize(("name", "known"), BROKEN)
def test_what_is_no_calibration_is_refused(name: str, known: Any) -> None:
    assert misfit(CALIBRATION, TASKS) is None
    assert repr(name) in (misfit({**CALIBRATION, name: known}, TASKS) or "")


@pytest.mark.parametrize("changed", [{"kind": {"method": "temperature", "temperature": -1.0}}, [1.0]])
def test_a_checkpoint_with_a_broken_one_is_refused(saved: Path, changed: Any) -> None:
    broken = torch.load(saved, weights_only=True)
    broken["mtl_lightning"]["calibration"] = changed
    torch.save(broken, saved)
    with pytest.raises(CheckpointError, match=r"model.ckpt.*something else has written or changed it"):
        MultiTaskModule.load_from_checkpoint(saved)
