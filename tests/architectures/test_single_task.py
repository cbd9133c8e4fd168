from __future__ import annotations

import torch
from torch import nn

from mtl_lightning.architectures import SingleTaskNetworks
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, times, values_of
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of


def test_each_task_has_a_network_of_its_own() -> None:
    encoders = one_after_the_other(times(2), times(3))
    network = SingleTaskNetworks(NUMBER, ["a", "b"], encoder=encoders)
    assert values_of(network(ONE, ["a", "b"])) == {"a": 2.0, "b": 3.0}
    assert {task: len(own) for task, own in network.task_parameters().items()} == {"a": 1, "b": 1}


def test_only_the_networks_asked_for_are_run() -> None:
    network = SingleTaskNetworks(NUMBER, ["a", "b"], encoder=nn.Linear(1, 2))
    calls: list[str] = []
    for task, encoder in network.encoders.items():
        encoder.register_forward_hook(lambda *_, task=task: calls.append(task))
    assert {*network(ONE, ["b"]).per_task} == {"b"}
    assert calls == ["b"]


def test_a_task_trains_as_if_it_were_alone() -> None:
    together = make_module(architecture=SingleTaskNetworks)
    start = {name: value.clone() for name, value in together.state_dict().items()}
    fit(together, make_batches(6))
    alone = make_module(architecture=SingleTaskNetworks, allow_unlabelled=["number", "vector"])
    alone.load_state_dict(start)
    fit(alone, make_batches(6, tasks=["kind"]))
    mine = [name for name in weights_of(alone) if "kind" in name]
    found, expected = ({name: weights_of(module)[name] for name in mine} for module in (together, alone))
    assert_same(found, expected)
    assert not torch.equal(weights_of(alone)[mine[0]], start[mine[0]])
