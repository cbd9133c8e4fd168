"""Fifty updates against a loop in bare PyTorch: one optimizer per group, learned uncertainties, reads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from mtl_lightning import Edge, MultiTaskModule
from mtl_lightning.balancing import FixedWeighting, UncertaintyWeighting
from tests.core.by_hand import HandLoop, Make
from tests.helpers import FACTORIES, assert_same, fit, make_batches, make_module, make_tasks, weights_of

BATCHES = make_batches(10)
WINDOWS = [[batch] for batch in BATCHES]
EPOCHS = 5  # of 10 updates
TOLERANCE = 1e-10
MAKERS: dict[str, Make] = {
    "shared": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "number": partial(Adam, lr=0.02),
    "vector": partial(AdamW, lr=0.003, weight_decay=0.1),
    "kind": partial(RMSprop, lr=0.001, momentum=0.5),
}


def by_prefix(makers: Mapping[str, Make]) -> dict[tuple[str, ...], Make]:
    places = {"shared": "architecture.", "balancer": "balancer."}
    return {(places.get(group, f"heads.{group}."),): make for group, make in makers.items()}


def trained(**options: Any) -> MultiTaskModule:
    module = make_module(**options)
    before = weights_of(module.double())
    fit(module, BATCHES, max_epochs=EPOCHS)
    assert all(not torch.equal(weight, before[name]) for name, weight in weights_of(module).items())
    return module


def test_summed_losses_with_an_optimizer_of_another_class_and_rate_per_group() -> None:
    module = trained(optimizers=MAKERS)
    by_hand = HandLoop(make_module(), by_prefix(MAKERS)).train(EPOCHS, WINDOWS)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


def test_constant_weights_multiply_the_losses() -> None:
    class Weighted(HandLoop):
        def objective(self, means: Mapping[str, Tensor]) -> Tensor:
            return 0.5 * means["number"] + 2.0 * means["vector"] + 0.25 * means["kind"]

    weights = {"number": 0.5, "vector": 2.0, "kind": 0.25}
    module = trained(balancer=partial(FixedWeighting, weights=weights), optimizers=MAKERS)
    by_hand = Weighted(make_module(), by_prefix(MAKERS)).train(EPOCHS, WINDOWS)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


def test_a_single_task_network_split_into_two_groups_by_pattern() -> None:
    def make(**options: Any) -> MultiTaskModule:
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh())
        return make_module(tasks=make_tasks("number"), architecture=network, **options)

    front, rest = partial(SGD, lr=0.1, momentum=0.9), partial(Adam, lr=0.002)
    batches = make_batches(10, tasks=["number"])
    groups = {"front": ["architecture.network.0.*"], "rest": ["architecture.network.2.*", "task:number"]}
    module = make(groups=groups, optimizers={"front": front, "rest": rest})
    assert list(module.groups) == ["front", "rest"]
    fit(module, batches, max_epochs=EPOCHS)
    places: dict[tuple[str, ...], Make] = {
        ("architecture.network.0.",): front,
        ("architecture.network.2.", "heads.number."): rest,
    }
    by_hand = HandLoop(make(), places).train(EPOCHS, [[batch] for batch in batches])
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


def test_uncertainty_weighting_of_gaussian_laplace_and_softmax_tasks_together() -> None:
    makers: dict[str, Make] = {**MAKERS, "balancer": partial(Adam, lr=0.05)}
    module = trained(balancer=UncertaintyWeighting, optimizers=makers)
    net = make_module(balancer=UncertaintyWeighting)
    by_hand = HandLoop(net, by_prefix(makers), uncertainty=True).train(EPOCHS, WINDOWS)
    assert_same(weights_of(module), weights_of(by_hand.net), atol=TOLERANCE)


@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "open"])
@pytest.mark.parametrize(
    "reads",
    [
        pytest.param({"vector": "number"}, id="a number"),
        pytest.param({"number": "vector"}, id="a vector"),
        pytest.param({"number": "kind"}, id="probabilities"),
        pytest.param({"vector": "number", "kind": "vector"}, id="a chain"),
        pytest.param({"vector": "kind", "number": "kind"}, id="twice"),
    ],
)
def test_reading_estimates(reads: dict[str, str], stop: bool) -> None:
    # the hand-written loop runs heads in the order of the tasks: those that read nothing come first
    tasks = make_tasks(*sorted(FACTORIES, key=lambda name: depth(name, reads)))
    options: dict[str, Any] = {"tasks": tasks, "reads": {reader: {read: Edge(stop)} for reader, read in reads.items()}}
    module = make_module(**options, optimizers=MAKERS)
    fit(module, BATCHES, max_epochs=EPOCHS)
    right, wrong = (
        HandLoop(make_module(**options), by_prefix(MAKERS), reads={a: (b, cut) for a, b in reads.items()})
        for cut in (stop, not stop)
    )
    assert_same(weights_of(module), weights_of(right.train(EPOCHS, WINDOWS).net), atol=TOLERANCE)
    with pytest.raises(AssertionError):
        assert_same(weights_of(module), weights_of(wrong.train(EPOCHS, WINDOWS).net), atol=1e-4)


def depth(task: str, reads: Mapping[str, str]) -> int:
    """How many estimates come before a task's own."""
    return 1 + depth(reads[task], reads) if task in reads else 0
