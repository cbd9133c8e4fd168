"""How far noise levels are off, by hand, and which of them will not settle."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import FixedWeighting, LogLosses, PCGrad, UncertaintyWeighting
from mtl_lightning.callbacks import UnsettledSigma
from tests.callbacks.events import said
from tests.helpers import fit, make_batches, make_module

TAG = "watch/sigma_off/"


def module_with(rate: float, start: float = 0.0, balancer: Any = UncertaintyWeighting) -> MultiTaskModule:
    """The network stands still, so that the losses are what they are."""
    made = partial(balancer, init=start) if balancer is UncertaintyWeighting else balancer
    optimizers = {"default": partial(SGD, lr=0.0), "balancer": partial(Adam, lr=rate)}
    return make_module(balancer=made, optimizers=optimizers)


def texts_of(module: MultiTaskModule, callback: UnsettledSigma, updates: int = 40) -> list[str]:
    with said() as texts:
        fit(module, make_batches(1), callbacks=[callback], max_epochs=updates)
    return texts


def test_the_quotient_is_1_where_the_gradient_is_0() -> None:
    """Squared errors: sigma^2 = L. Absolute ones: sqrt(2) times the scale L. Cross-entropy: e^s = 2 L."""
    batches = make_batches(1)
    module = module_with(0.0).double()
    losses = [
        float(task.loss(module(batches[0]["inputs"])[name], batches[0]["targets"][name]))
        / float(task.count(batches[0]["targets"][name]))
        for name, task in module.tasks.items()
    ]
    trainer = fit(module, batches, callbacks=[UnsettledSigma(1)])
    found = {t.removeprefix(TAG): float(v) for t, v in trainer.callback_metrics.items() if t.startswith(TAG)}
    expected = {"number": losses[0] ** -0.5, "vector": 1 / losses[1], "kind": (2 * losses[2]) ** -0.5}
    assert found == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        for index, s in enumerate([math.log(losses[0]), math.log(losses[1]), math.log(2 * losses[2])]):
            module.get_parameter(f"balancer.log_vars.{index}").fill_(s + 0.01)
    trainer = fit(module, batches, callbacks=[UnsettledSigma(1)])
    found = {t.removeprefix(TAG): float(v) for t, v in trainer.callback_metrics.items() if t.startswith(TAG)}
    assert all(1 < value < 1.011 for value in found.values())


@pytest.mark.parametrize("start", [-4.0, 6.0])
def test_a_rate_too_small_is_named_once_with_its_key(start: float) -> None:
    (text,) = texts_of(module_with(1e-5, start), UnsettledSigma(2))
    assert text.startswith("The noise levels that the balancer learns do not settle at learning rate 1e-05")
    assert re.search(r"sigma is not what it should be \([\d.e+-]+ times for number", text)
    assert "raise the rate of `optimizers.balancer`" in text


@pytest.mark.parametrize(
    ("rate", "start", "updates"),
    [
        (0.3, 6.0, 40),  # it arrives
        (0.05, 3.0, 100),  # on its way, with enough time
        (1e-5, 0.3, 40),  # off by little
        (0.0, 6.0, 12),  # too few samples
    ],
)
def test_others_settle(rate: float, start: float, updates: int) -> None:
    module = module_with(rate, start)
    assert texts_of(module, UnsettledSigma(2), updates) == []


def test_gradient_methods_with_uncertainty_are_watched_too() -> None:
    balancer = partial(PCGrad, losses=partial(UncertaintyWeighting, init=6.0))
    assert len(texts_of(module_with(1e-5, balancer=balancer), UnsettledSigma(2))) == 1


@pytest.mark.parametrize("balancer", [partial(FixedWeighting, weights=[1.0, 1.0, 1.0]), LogLosses])
def test_balancers_without_sigmas_are_left_alone(balancer: Any) -> None:
    module = make_module(balancer=balancer)
    trainer = fit(module, make_batches(2), callbacks=[UnsettledSigma(1)])
    assert not [tag for tag in trainer.callback_metrics if tag.startswith(TAG)]
