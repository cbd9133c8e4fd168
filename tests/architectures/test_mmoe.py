from __future__ import annotations

from functools import partial
from math import log
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import MLP, LeNet, MMoE, OMoE, TabularEncoder
from mtl_lightning.types import TableSpec, TensorSpec
from tests.architectures.scalars import one_after_the_other, put, values_of, weight

PAIRS, TASKS = TensorSpec((2,)), ["a", "b"]
INPUT = torch.tensor([[4.0, 8.0]])


def experts() -> Any:
    return one_after_the_other(weight(1, 0), weight(0, 1))  # the first number, the second number


def test_each_gate_mixes_the_same_experts() -> None:
    network = MMoE(PAIRS, TASKS, encoder=experts(), num_experts=2)
    for name in ("weight", "bias"):
        put(network.gates.get_parameter(f"a.map.{name}"), 0)
        put(network.gates.get_parameter(f"b.map.{name}"), 0)
    put(network.gates.get_parameter("a.map.bias"), [log(3), 0])  # softmax: 3/4 and 1/4 for every input
    put(network.gates.get_parameter("b.map.weight"), [[-log(3) / 4, 0], [0, 0]])  # 1/4 and 3/4 where x_1 is 4
    assert values_of(network(INPUT, TASKS)) == pytest.approx({"a": 3 / 4 * 4 + 1 / 4 * 8, "b": 1 / 4 * 4 + 3 / 4 * 8})


def test_one_gate_gives_every_task_the_same() -> None:
    network = OMoE(PAIRS, TASKS, encoder=experts(), num_experts=2)
    put(network.gate.map.weight, 0)
    put(network.gate.map.bias, [0, log(7)])
    features = network(INPUT, TASKS).per_task
    assert features["a"] is features["b"]
    assert features["a"].item() == pytest.approx(1 / 8 * 4 + 7 / 8 * 8)
    assert network.task_parameters() == {}


def test_experts_are_run_once_for_all_tasks() -> None:
    network = MMoE(PAIRS, TASKS, num_experts=3)
    calls: list[int] = []
    for expert in network.experts.encoders:
        expert.register_forward_hook(lambda *_: calls.append(1))
    network(INPUT, TASKS)
    assert len(calls) == 3


def test_a_gate_stays_small_on_pictures() -> None:
    network = MMoE(TensorSpec((3, 64, 64)), TASKS, encoder=partial(LeNet, channels=(2, 2), width=4), num_experts=5)
    assert network.gates.get_parameter("a.map.weight").shape == (5, 3 * 4 * 4)  # not 3 * 64 * 64


def test_a_trunk_stands_below_experts_and_gates() -> None:
    spec = TableSpec(("age",), {"work": 5})
    trunk = partial(TabularEncoder, hidden=(), embedding=3)
    network = MMoE(spec, TASKS, trunk=trunk, encoder=partial(MLP, hidden=[6]), num_experts=2)
    inputs = {"numeric": torch.randn(2, 1), "categorical": torch.tensor([[1], [0]])}
    assert network(inputs, TASKS).per_task["a"].shape == (2, 6)
    assert [name for name, _ in network.named_parameters() if "embedding" in name] == [
        "trunk.stages.0.embedding.0.weight"
    ]
    assert network.gates.get_parameter("a.map.weight").shape == (2, 4)


def test_gates_read_what_they_are_told_to() -> None:
    network = MMoE(PAIRS, TASKS, num_experts=2, gate_input=weight(10, 1))
    read = network.gate_input(INPUT)
    assert read.tolist() == [[48.0]]
    owned = {id(p) for own in network.task_parameters().values() for p in own}
    assert not any(id(p) in owned for p in network.gate_input.parameters())


def test_needs_no_spec_above_a_trunk_that_declares_its_features() -> None:
    network = MMoE(None, TASKS, trunk=nn.Linear(3, 4), num_experts=2)
    assert network(torch.randn(2, 3), TASKS).per_task["b"].shape == (2, 64)
