"""Updates on a device are those of the CPU in the plain way; on the CPU itself, fast paths give the plain numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from torchjd.aggregation import UPGrad as TorchUPGrad

from mtl_lightning.balancing import FAMO, MGDA, PCGrad, UncertaintyWeighting, UPGrad
from tests.gpu.training import ARCHITECTURES, state, trained
from tests.helpers import assert_same

BALANCERS: dict[str, Any] = {
    "uncertainty": UncertaintyWeighting,
    "FAMO": FAMO,
    "UPGrad": UPGrad,
    "PCGrad": PCGrad,
    "MGDA of features": partial(MGDA, level="features"),
    "torchjd": TorchUPGrad(),
}
CASES = [
    *((name, "SharedBottom") for name in BALANCERS),
    *(("uncertainty", name) for name in ARCHITECTURES),
    ("UPGrad", "PLE"),
]


@pytest.mark.parametrize(("balancer", "architecture"), [*dict.fromkeys(CASES)])
def test_updates_are_those_of_the_cpu(balancer: str, architecture: str, device: str) -> None:
    """In float64, where sums in another order stay below 1e-8 after twelve updates of Adam."""
    found = trained(device, BALANCERS[balancer], architecture)
    expected = trained("cpu", BALANCERS[balancer], architecture, fast_paths=False)
    assert_same(state(found), state(expected), atol=1e-8)


@pytest.mark.parametrize("balancer", ["uncertainty", "UPGrad"])
def test_windows_of_several_batches(balancer: str, device: str) -> None:
    window = {"accumulate_grad_batches": 2}
    found = trained(device, BALANCERS[balancer], trainer=window)
    expected = trained("cpu", BALANCERS[balancer], trainer=window, fast_paths=False)
    assert_same(state(found), state(expected), atol=1e-8)


@pytest.mark.parametrize("balancer", ["uncertainty", "UPGrad"])
def test_compiled(balancer: str, device: str) -> None:
    """With CUDA graphs on a GPU; on the CPU with a backend that needs no compiler."""
    options = {"mode": "reduce-overhead"} if device == "cuda" else {"backend": "eager"}
    found = trained(device, BALANCERS[balancer], compile=options)
    expected = trained("cpu", BALANCERS[balancer], fast_paths=False)
    assert_same(state(found), state(expected), atol=1e-8)


def test_the_tests_can_fail(device: str) -> None:
    found, other = trained(device, UncertaintyWeighting), trained("cpu", FAMO)
    with pytest.raises(AssertionError):
        assert_same(
            {name: value for name, value in state(found).items() if "encoder" in name},
            {name: value for name, value in state(other).items() if "encoder" in name},
            atol=1e-8,
        )
