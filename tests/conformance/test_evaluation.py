"""``validate``, ``test`` and ``predict`` without a fit: what a plain module says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_lightning import MultiTaskModule
from tests.conformance.plain import Plain
from tests.core.saved import single
from tests.helpers import loader_of, make_batches, make_module, make_trainer

ALL = ("number", "vector", "kind")
BATCHES, MORE = make_batches(3), make_batches(2, seed=1)


def modules() -> tuple[MultiTaskModule, Plain]:
    return make_module(), Plain(ALL, None)


@pytest.mark.parametrize("precision", ["64-true", "32-true", "bf16-mixed"])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_losses(stage: str, precision: Any) -> None:
    batches = BATCHES if precision == "64-true" else single(BATCHES)
    found = []
    for module in modules():
        trainer = make_trainer(precision=precision)
        run = trainer.validate if stage == "val" else trainer.test
        run(module, loader_of(batches), verbose=False)
        found.append(float(trainer.callback_metrics[f"{stage}/loss"]))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_several_loaders(stage: str) -> None:
    found = []
    for module in modules():
        trainer = make_trainer()
        run = trainer.validate if stage == "val" else trainer.test
        run(module, (loader_of(BATCHES), loader_of(MORE)), verbose=False)
        found.append([float(trainer.callback_metrics[f"{stage}/{index}/loss"]) for index in (0, 1)])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0][0] != pytest.approx(found[0][1], abs=1e-3)


def test_predictions() -> None:
    mine, theirs = (make_trainer().predict(module, loader_of(BATCHES)) or [] for module in modules())
    assert len(mine) == len(theirs) == 3
    for predicted, outputs in zip(mine, theirs, strict=True):
        assert isinstance(predicted, dict)
        assert isinstance(outputs, dict)
        torch.testing.assert_close(predicted["number"], outputs["number"][:, 0])
        torch.testing.assert_close(predicted["vector"], outputs["vector"])
        torch.testing.assert_close(predicted["kind"]["probability"], outputs["kind"].softmax(1))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_metrics_and_losses_are_summed_in_float32(precision: Any) -> None:
    """In half precision a count would stop growing at 256 or 2048."""
    batches = single(make_batches(40))
    found = []
    for module in modules():
        trainer = make_trainer(precision=precision)
        trainer.validate(module, loader_of(batches), verbose=False)
        found.append(float(trainer.callback_metrics["val/loss"]))
        if isinstance(module, MultiTaskModule):
            (kept,) = (evaluations for evaluations in module.evaluations._stages.values() if evaluations)
            for evaluation in kept:
                states = [state for m in evaluation.modules() for state in getattr(m, "_defaults", {}).values()]
                assert {s.dtype for s in states if s.is_floating_point()} == {torch.float32}
    assert found[0] == pytest.approx(found[1], abs=1e-5)
