"""Losses and learned weights are never below float32, and float64 where the trainer computes in it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import UncertaintyWeighting
from tests.core.by_hand import HandLoop
from tests.core.saved import single
from tests.helpers import fit, loader_of, make_batches, make_module, make_trainer, weights_of

BATCHES = make_batches(5)
SINGLE = single(BATCHES)
NETWORK = {
    "32-true": torch.float32,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
    "64-true": torch.float64,
}


class Dtypes(Callback):
    """Notes the dtypes of everything that decides an update."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, torch.dtype]] = set()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.seen.add(("losses", pl_module.updates.losses.tasks.dtype))
        for name, parameter in pl_module.named_parameters():
            self.seen.add((name.split(".")[0], parameter.dtype))
            self.seen.add((f"gradient of {name.split('.')[0]}", parameter.grad.dtype))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.seen.add(("objective", outputs["loss"].dtype))


def dtypes(precision: Any, init: Any) -> dict[str, torch.dtype]:
    balancer = partial(UncertaintyWeighting, init=init)
    rates = {"default": partial(SGD, lr=1e-2)}  # the second moments of Adam underflow in float16
    dtypes, module = Dtypes(), make_module(balancer=balancer, reads={"kind": ["vector"]}, optimizers=rates)
    trainer = fit(module, BATCHES if precision == "64-true" else SINGLE, precision=precision, callbacks=[dtypes])
    assert trainer.global_step == 5
    assert all(torch.isfinite(weight).all() for weight in weights_of(module).values())
    found = dict(dtypes.seen)
    assert len(found) == len(dtypes.seen)  # one dtype each
    return found


@pytest.mark.parametrize("init", [0.0, "first_batch"])
@pytest.mark.parametrize("precision", NETWORK)
def test_losses_and_log_variances_in_every_precision(precision: str, init: Any) -> None:
    found = dtypes(precision, init)
    for name in ("losses", "objective", "balancer", "gradient of balancer"):
        assert found[name] == (torch.float64 if precision == "64-true" else torch.float32), name
    for name in ("architecture", "heads", "gradient of heads"):
        assert found[name] == NETWORK[precision], name


def test_mixed_precision_is_near_full_precision() -> None:
    modules = [
        make_module(balancer=UncertaintyWeighting, optimizers={"default": partial(SGD, lr=0.05)}) for _ in range(2)
    ]
    for module, precision in zip(modules, ("bf16-mixed", "32-true"), strict=True):
        fit(module, SINGLE, precision=precision, max_epochs=4)
    for found, expected in zip(*(weights_of(module).values() for module in modules), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    assert not torch.equal(*(weights_of(module)["heads.kind.map.weight"] for module in modules))


def test_losses_of_half_precision_outputs_are_exact() -> None:
    """The network runs in bfloat16, its losses do not: they equal those of its outputs in float32."""

    class Looking(MultiTaskModule):
        def run(self, inputs: Any, tasks: Any) -> Any:
            outputs, aux = super().run(inputs, tasks)
            kept.append({name: output.detach() for name, output in outputs.items()})
            return outputs, aux

    kept: list[Any] = []
    module = make_module(Looking)
    fit(module, SINGLE[:1], precision="bf16-mixed")
    assert {output.dtype for output in kept[0].values()} == {torch.bfloat16}

    class Known(HandLoop):
        def outputs(self, inputs: Any, tasks: Any) -> Any:
            return {name: output.double() for name, output in kept[0].items()}

    expected = Known(make_module(), {}).means(BATCHES[:1])
    torch.testing.assert_close(
        module.updates.losses.tasks.double(), torch.stack(list(expected.values())), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-mixed", torch.float32)])
def test_predictions_are_float32_or_better(precision: Any, dtype: torch.dtype) -> None:
    batches = BATCHES if precision == "64-true" else SINGLE
    (found,) = make_trainer(precision=precision).predict(make_module(), loader_of(batches[:1])) or []
    assert isinstance(found, dict)
    assert {found["number"].dtype, found["vector"].dtype, found["kind"]["probability"].dtype} == {dtype}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_validation_in_every_precision(precision: Any) -> None:
    trainer = make_trainer(precision=precision)
    trainer.validate(make_module(), loader_of(BATCHES if precision == "64-true" else SINGLE), verbose=False)
    expected = HandLoop(make_module(), {}).evaluate(BATCHES)
    tolerance = 1e-6 if precision == "64-true" else 0.05
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(expected), rel=tolerance)
