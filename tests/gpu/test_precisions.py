"""Half precision on a device ends near single precision; ``16-mixed`` has a scaler, which is what a GPU makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from mtl_lightning.balancing import UncertaintyWeighting, UPGrad
from tests.core.saved import single
from tests.gpu.training import batches, state, trained

PLAIN = "MMoE without norms"
"""Before a normalisation a bias has no gradient but rounding, which Adam makes steps of."""
BALANCERS: dict[str, Any] = {"uncertainty": UncertaintyWeighting, "UPGrad": UPGrad}


def precision(name: str, device: str) -> dict[str, Any]:
    """Options of the trainer; its own scaler begins so high that the first updates overflow, and are left out."""
    if name == "16-mixed":
        scaler = torch.amp.GradScaler(device, init_scale=2.0**8)
        return {"precision": None, "plugins": [MixedPrecision("16-mixed", device, scaler=scaler)]}
    return {"precision": name}


@pytest.mark.parametrize("name", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("balancer", BALANCERS)
def test_half_precision_ends_near_single(balancer: str, name: str, device: str) -> None:
    data = single(batches())
    found = trained(device, BALANCERS[balancer], PLAIN, trainer=precision(name, device), data=data)
    exact = trained("cpu", BALANCERS[balancer], PLAIN, trainer={"precision": "32-true"}, data=data)
    scaler = getattr(found.trainer.precision_plugin, "scaler", None)
    assert (scaler is not None) == (name == "16-mixed")
    assert scaler is None or scaler.get_scale() >= 1
    assert not found.updates.skipped
    there = {name: value for name, value in state(exact).items() if value.is_floating_point()}
    here = state(found)
    way = 0.01 * 12  # which a weight goes at most in as many updates of Adam, about
    for key, value in there.items():
        assert here[key].isfinite().all()
        assert (here[key] - value).abs().max() <= way / 2, key
    assert any(not torch.equal(here[key], value) for key, value in there.items())  # half precision was used
