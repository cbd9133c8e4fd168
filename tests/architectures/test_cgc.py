from __future__ import annotations

from math import log

import pytest
import torch

from mtl_lightning.architectures import CGC
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, put, times, values_of

TASKS = ["a", "b"]


def test_a_task_mixes_its_own_experts_and_the_shared_ones() -> None:
    encoders = one_after_the_other(times(100), times(1), times(2), times(3), times(4))  # shared; two of a; two of b
    network = CGC(NUMBER, TASKS, encoder=encoders, num_shared=1, num_own=2)
    for task in TASKS:
        put(network.gates.get_parameter(f"{task}.map.weight"), 0)
        put(network.gates.get_parameter(f"{task}.map.bias"), [log(5), log(3), log(2)])  # own, own, shared; of 10
    assert values_of(network(ONE, TASKS)) == pytest.approx({"a": 0.5 * 1 + 0.3 * 2 + 20, "b": 0.5 * 3 + 0.3 * 4 + 20})


def test_own_experts_and_gates_are_the_tasks() -> None:
    network = CGC(NUMBER, TASKS, encoder=times(1), num_shared=3, num_own=2)
    assert {task: len(own) for task, own in network.task_parameters().items()} == {"a": 2 + 2, "b": 2 + 2}
    assert len(list(network.shared.parameters())) == 3


def test_experts_of_other_tasks_are_not_run() -> None:
    network = CGC(NUMBER, TASKS, encoder=times(1))
    calls: list[int] = []
    network.own["b"].register_forward_hook(lambda *_: calls.append(1))
    network(torch.ones(2, 1), ["a"])
    assert calls == []
