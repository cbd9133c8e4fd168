"""Every precision, on a ``MultiTaskModule`` and on a plain automatic module: the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torchjd.aggregation import UPGrad

from mtl_lightning import Schedule
from tests.conformance.plain import Ended, Feature
from tests.conformance.test_features import assert_equal, assert_same_course, ours, plain
from tests.helpers import assert_same

# Not fused: with a scaler Lightning refuses to clip then, and in half precision on the CPU a fused SGD moves nothing.
SGD_05 = partial(SGD, lr=0.05, momentum=0.9, fused=False)
PRECISIONS = ["64-true", "32-true", "bf16-mixed", "bf16-true", "16-true"]
LAYOUTS = ["one group", "five groups", "two groups of one task"]
FEATURES = {
    "alone": Feature(optimizer=SGD_05),
    "clipping": Feature({"gradient_clip_val": 0.3}, optimizer=SGD_05),
    "schedule": Feature(optimizer=SGD_05, schedule=Schedule(partial(StepLR, step_size=2), interval="step")),
}
WINDOWS = Feature({"accumulate_grad_batches": 3, "gradient_clip_val": 0.3}, optimizer=SGD_05, windows=True)


def with_scaler() -> dict[str, Any]:
    """16-mixed with a real scaler, which a trainer on the CPU does not make by itself."""
    return {
        "plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", 2.0**10, growth_interval=5))]
    }


def scale(ended: Ended) -> float:
    scaler = ended.trainer.scaler
    assert scaler is not None
    return float(scaler.get_scale())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_balancer(precision: str, layout: str) -> None:
    for feature in FEATURES.values():
        found, expected = (make(layout, feature, precision) for make in (ours, plain))
        assert_equal(found, expected, feature, 1e-10 if precision == "64-true" else 1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FEATURES)
def test_a_loss_balancer_under_a_scaler(name: str, layout: str) -> None:
    found, expected = (make(layout, FEATURES[name], None, **with_scaler()) for make in (ours, plain))
    assert_equal(found, expected, FEATURES[name], 1e-6)
    assert scale(found) == scale(expected) == 2**12  # once per update: 14 updates, doubled every 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_under_a_scaler(layout: str) -> None:
    found, expected = (make(layout, WINDOWS, None, **with_scaler()) for make in (ours, plain))
    assert_same_course(found, expected)
    assert_same(found.weights, expected.weights, atol=1e-3)  # half-precision gradients of losses / 3 round differently
    assert scale(found) == scale(expected) == 2**11


@pytest.mark.parametrize("precision", [*PRECISIONS, None], ids=lambda precision: precision or "16-mixed")
def test_a_gradient_balancer(precision: str | None) -> None:
    feature = FEATURES["clipping"]
    found = ours("five groups", feature, precision, UPGrad(), **({} if precision else with_scaler()))
    assert_same_course(found, plain("five groups", feature, precision, **({} if precision else with_scaler())))
    exact = ours("five groups", feature, "64-true", UPGrad()).weights
    near = {"64-true": 1e-10, "32-true": 1e-5, "16-true": 5e-3}.get(str(precision), 0.05)
    assert_same({name: weight.double() for name, weight in found.weights.items()}, exact, atol=near)
    if precision is None:
        assert scale(found) == 2**12


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_the_default_way_of_stepping_moves_half_precision_weights(precision: str) -> None:
    """On the CPU, the fused SGD of PyTorch leaves most half-precision weights as they are."""
    by_default = Feature(optimizer=partial(SGD, lr=0.05, momentum=0.9))
    assert_same(
        ours("five groups", by_default, precision).weights, ours("five groups", FEATURES["alone"], precision).weights
    )
