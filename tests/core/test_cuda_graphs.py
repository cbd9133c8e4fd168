"""``compile: {mode: reduce-overhead}``: nothing is read that the next replay of a CUDA graph would have overwritten.

There is no GPU here. A backend for the CPU does the worst that a replay may do: at each mark of a step's begin it fills
with nan whatever any graph, forward or backward, gave or kept for its backward before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.optim import Adam
from torchjd.aggregation import UPGrad

from mtl_lightning.balancing import FAMO, MGDA, AutoLambda, GradVac, UncertaintyWeighting
from mtl_lightning.core.compilation import begin_step, compile_parts
from mtl_lightning.types import Batch
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of, without

TRAIN, VAL = make_batches(6), make_batches(2, seed=1)
SOME = [TRAIN[0], without(TRAIN[1], "kind"), TRAIN[2], without(TRAIN[3], "number", "vector"), *TRAIN[4:]]


class Replays:
    """A backend whose graphs' results are overwritten when the next step begins."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []
        self.overwritten = 0

    def __call__(self, graph: Any, inputs: Any, **options: Any) -> Any:
        return aot_autograd(fw_compiler=self._remembering, bw_compiler=self._remembering)(graph, inputs)

    def _remembering(self, graph: Callable[..., Sequence[Any]], inputs: Any) -> Any:
        def run(*arguments: Any) -> Sequence[Any]:
            results = graph(*arguments)
            own = {a.untyped_storage().data_ptr() for a in arguments if isinstance(a, Tensor)}
            tensors = [value for value in results if isinstance(value, Tensor) and value.is_floating_point()]
            self.given += [value for value in tensors if value.untyped_storage().data_ptr() not in own]
            return results

        return make_boxed_func(run)

    def overwrite(self) -> None:
        """Begin a step."""
        for value in self.given:
            value.data.fill_(torch.nan)
        self.overwritten += len(self.given)
        self.given.clear()


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Iterator[Replays]:
    torch.compiler.reset()
    made = Replays()
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", made.overwrite)
    yield made
    torch.compiler.reset()


def trained(compile: Any, balancer: Any, train: list[Batch], **options: Any) -> tuple[Any, dict[str, float]]:
    """A module after two epochs, and what its last validation logged."""
    module = make_module(balancer=balancer, compile=compile, optimizers={"default": partial(Adam, lr=0.01)})
    trainer = fit(module, train, VAL, max_epochs=2, **options)
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("balancer", "train", "accumulate"),
    [
        pytest.param(UncertaintyWeighting, SOME, 1, id="uncertainty, some tasks absent"),
        pytest.param(FAMO, SOME, 2, id="FAMO, windows of two"),
        pytest.param(UPGrad(), SOME, 1, id="UPGrad, some tasks absent"),
        pytest.param(partial(MGDA, level="features"), TRAIN, 2, id="MGDA of features, windows of two"),
        pytest.param(GradVac, TRAIN, 1, id="GradVac"),
        pytest.param(AutoLambda, TRAIN, 2, id="AutoLambda, windows of two"),
    ],
)
def test_no_update_or_validation_reads_what_an_earlier_step_gave(
    balancer: Any, train: list[Batch], accumulate: int, replays: Replays
) -> None:
    options = {"backend": replays, "mode": "reduce-overhead"}
    found, logged = trained(options, balancer, train, accumulate_grad_batches=accumulate)
    assert replays.overwritten > 100
    plain, expected = trained(False, balancer, train, accumulate_grad_batches=accumulate)
    assert_same(weights_of(found), weights_of(plain), atol=1e-10)
    assert logged == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("copied", [True, False])
def test_outputs_without_gradients_outlive_their_step(
    copied: bool, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not copied:
        monkeypatch.setattr("mtl_lightning.core.compilation._copying", lambda compiled: compiled)
    module, options = make_module().double(), {"backend": replays, "mode": "reduce-overhead"}
    inputs = TRAIN[0]["inputs"]
    with torch.no_grad():
        expected = module(inputs)
        compile_parts(module, options)
        kept = module(inputs)
    begin_step(options)
    assert all(torch.equal(kept[name], expected[name]) == copied for name in expected)


@pytest.mark.parametrize(
    "options", [True, {"backend": "eager"}, {"mode": "default"}, {"options": {"epilogue_fusion": True}}]
)
def test_other_options_mark_and_copy_nothing(options: Any, replays: Replays) -> None:
    replays.given = [torch.zeros(())]
    begin_step(options)
    assert not replays.overwritten
    begin_step({"options": {"triton.cudagraphs": True}})
    assert replays.overwritten
