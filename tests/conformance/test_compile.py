"""``torch.compile`` of the network in place: the same weights, under the same names."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torchjd.aggregation import UPGrad

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import Balancer, UncertaintyWeighting
from tests.core.saved import single
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of

TRAIN = make_batches(4)


@pytest.fixture(autouse=True)
def _compile_afresh() -> None:
    torch.compiler.reset()


def trained(balancer: Any, compiled: bool, train: Any = TRAIN, **options: Any) -> MultiTaskModule:
    module = make_module(balancer=balancer, optimizers={"default": partial(SGD, lr=0.05, momentum=0.9)})
    if compiled:
        keys = list(module.state_dict())
        module.architecture.compile(backend="aot_eager", fullgraph=True)
        assert list(module.state_dict()) == keys
    fit(module, train, max_epochs=2, **options)
    return module


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("balancer", [Balancer, UncertaintyWeighting, UPGrad()], ids=["sum", "uncertainty", "UPGrad"])
def test_a_compiled_network_trains_to_the_same_weights(balancer: Any, accumulate: int) -> None:
    compiled, plain = (trained(balancer, choice, accumulate_grad_batches=accumulate) for choice in (True, False))
    assert compiled.architecture._compiled_call_impl is not None
    assert_same(weights_of(compiled), weights_of(plain), atol=1e-10)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_its_checkpoint_loads_into_a_network_that_is_not_compiled() -> None:
    module = trained(UncertaintyWeighting, True, single(TRAIN), precision="32-true")
    module.trainer.save_checkpoint("model.ckpt")
    loaded = MultiTaskModule.load_from_checkpoint("model.ckpt", balancer=UncertaintyWeighting)
    assert_same(loaded.state_dict(), module.state_dict())
