from __future__ import annotations

from functools import partial
from math import log

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import CGC, PLE, LeNet
from mtl_lightning.types import TensorSpec
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, put, times, values_of

TASKS = ["a", "b"]


def two_levels() -> PLE:
    """Factors of the shared expert 5 and 3, of a's 2 and 1, of b's 3 and 2; every gate weighs all alike."""
    network = PLE(NUMBER, TASKS, encoder=one_after_the_other(times(5, 3), times(2, 1), times(3, 2)))
    for name, parameter in network.named_parameters():
        if "gate" in name:
            put(parameter, 0)
    return network


def test_the_shared_stream_mixes_all_experts_and_is_read_by_all() -> None:
    a, b, shared = (2 + 5) / 2, (3 + 5) / 2, (2 + 3 + 5) / 3  # the streams behind the first level
    expected = {"a": (1 * a + 3 * shared) / 2, "b": (2 * b + 3 * shared) / 2}
    assert values_of(two_levels()(ONE, TASKS)) == pytest.approx(expected)


def test_a_gate_reads_its_own_stream() -> None:
    network = two_levels()
    put(network.get_parameter("levels.1.gates.a.map.weight"), [[log(3) / 3.5], [0]])  # a's stream is 3.5 here
    assert values_of(network(ONE, ["a"]))["a"] == pytest.approx(3 / 4 * 3.5 + 1 / 4 * 10)


def test_the_shared_gate_reads_the_shared_stream() -> None:
    encoders = one_after_the_other(times(5, 1, 1), times(2, 1, 0), times(3, 1, 0))
    network = PLE(NUMBER, TASKS, encoder=encoders)
    for name, parameter in network.named_parameters():
        if "gate" in name:
            put(parameter, 0)
    a, b, shared = 3.5, 4.0, 10 / 3
    put(network.get_parameter("levels.1.shared_gate.map.weight"), [[0], [log(2) / shared], [log(5) / shared]])
    mixed = (1 * a + 2 * b + 5 * shared) / 8  # of a's expert, b's, and the shared one
    assert values_of(network(ONE, ["b"]))["b"] == pytest.approx((0 + mixed) / 2)


def test_one_level_is_cgc() -> None:
    torch.manual_seed(0)
    level = PLE(NUMBER, TASKS, encoder=lambda _: nn.Sequential(nn.Linear(1, 4)), num_shared=2, num_own=3)
    whole = CGC(NUMBER, TASKS, encoder=lambda _: nn.Sequential(nn.Linear(1, 4)), num_shared=2, num_own=3)
    assert len(list(level.parameters())) == len(list(whole.parameters()))
    by_name = dict(level.named_parameters())
    for name, parameter in whole.named_parameters():
        theirs = f"levels.0.{name}".replace(".encoders.0.0.", ".encoders.0.").replace("encoders.1.0.", "encoders.1.")
        put(by_name[theirs.replace("encoders.2.0.", "encoders.2.")], parameter)
    inputs = torch.randn(6, 1)
    for task in TASKS:
        torch.testing.assert_close(level(inputs, TASKS).per_task[task], whole(inputs, TASKS).per_task[task])
    assert {t: len(p) for t, p in level.task_parameters().items()} == {
        t: len(p) for t, p in whole.task_parameters().items()
    }


def test_gates_of_later_levels_read_maps_averaged_over_space() -> None:
    network = PLE(TensorSpec((1, 13, 15)), TASKS, encoder=partial(LeNet, channels=(4, 6), width=8))
    shapes = [tuple(network.get_parameter(f"levels.{i}.gates.a.map.weight").shape) for i in range(3)]
    assert shapes == [(2, 16), (2, 4), (2, 6)]  # the picture in 4 x 4 cells, then the channels of the last stage
    assert network(torch.randn(2, 1, 13, 15), TASKS).per_task["b"].shape == (2, 8)
