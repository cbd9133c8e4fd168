"""``compile`` of the network in place: the same updates, and the same weights under the same names."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torchjd.aggregation import UPGrad

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import MGDA, Balancer, UncertaintyWeighting
from mtl_lightning.cli import MultiTaskCLI
from tests.cli import CONFIGS
from tests.core.saved import single
from tests.cover import some_of
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of, without

TRAIN = make_batches(4)
EAGER = {"backend": "aot_eager", "fullgraph": True}
"""Traces, differentiates ahead of time, and runs what comes of it operation by operation."""


@pytest.fixture(autouse=True)
def _compile_afresh() -> None:
    torch.compiler.reset()


def trained(balancer: Any, compile: Any, train: Any = TRAIN, **options: Any) -> MultiTaskModule:
    optimizers = {"default": partial(SGD, lr=0.05, momentum=0.9)}
    module = make_module(balancer=balancer, optimizers=optimizers, compile=compile)
    fit(module, train, max_epochs=2, **options)
    return module


@pytest.mark.parametrize("accumulate", some_of([1, 2], 2))
@pytest.mark.parametrize(
    "balancer",
    [Balancer, UncertaintyWeighting, UPGrad(), partial(MGDA, level="features")],
    ids=["sum", "uncertainty", "UPGrad", "features"],
)
def test_a_compiled_network_trains_to_the_same_weights(balancer: Any, accumulate: int) -> None:
    compiled, plain = (trained(balancer, options, accumulate_grad_batches=accumulate) for options in (EAGER, False))
    assert_same(weights_of(compiled), weights_of(plain), atol=1e-10)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_architecture_and_heads_are_compiled_once_whatever_tasks_have_labels() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    some = [without(TRAIN[0], "kind"), without(TRAIN[1], "number"), without(TRAIN[2], "vector", "kind")]
    compiled = trained(UncertaintyWeighting, {"backend": backend}, TRAIN + some)
    assert len(graphs) == 1 + 3  # the encoder, and heads of three sizes
    fit(compiled, TRAIN)
    assert len(graphs) == 1 + 3
    fit(plain := trained(UncertaintyWeighting, False, TRAIN + some), TRAIN)
    assert_same(weights_of(compiled), weights_of(plain), atol=1e-10)


def test_its_checkpoint_loads_into_a_network_that_is_not_compiled() -> None:
    module = trained(UncertaintyWeighting, EAGER, single(TRAIN), precision="32-true")
    module.trainer.save_checkpoint("model.ckpt")
    unchanged: dict[str, Any] = {}
    for changes in (unchanged, {"compile": False}):
        loaded = MultiTaskModule.load_from_checkpoint("model.ckpt", balancer=UncertaintyWeighting, **changes)
        assert_same(loaded.state_dict(), module.state_dict())
        assert loaded.compile_options == changes.get("compile", EAGER)


@pytest.mark.parametrize(
    ("flag", "expected"), [("true", True), ("{mode: max-autotune}", {"mode": "max-autotune"}), ("false", False)]
)
def test_it_is_one_switch(flag: str, expected: Any) -> None:
    arguments = ["--config", str(CONFIGS / "synthetic.yaml"), f"--model.compile={flag}"]
    assert MultiTaskCLI(args=arguments, run=False).model.compile_options == expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the default compiler needs a C++ compiler")
@pytest.mark.filterwarnings(  # the compiler looks at every name of every module that is imported
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)
@pytest.mark.parametrize("balancer", [Balancer, UPGrad()], ids=["sum", "UPGrad"])
def test_with_pytorchs_default_compiler(balancer: Any) -> None:
    compiled, plain = (trained(balancer, options) for options in (True, False))
    assert_same(weights_of(compiled), weights_of(plain), atol=1e-10)
