from __future__ import annotations

from math import exp, sqrt

import pytest
import torch

from mtl_lightning.architectures import LearningToBranch
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, put, times, values_of

TASKS = ["a", "b", "c"]


def three(stages: int = 3, warmup: int = 0) -> LearningToBranch:
    """The copies of a, b, c multiply by 1, 2, 3 on the first stage, and by 1 on later ones."""
    made = one_after_the_other(*(times(first, *[1.0] * (stages - 1)) for first in (1, 2, 3)))
    return LearningToBranch(NUMBER, TASKS, encoder=made, warmup=warmup)


def branch(network: LearningToBranch, joint: int, parents: list[int]) -> None:
    for child, parent in enumerate(parents):
        put(network.get_parameter(f"logits.{joint}.{child}"), [5.0 * (parent == p) for p in range(3)])


def test_evaluation_follows_the_likeliest_parents() -> None:
    network = three().eval()
    branch(network, 0, [1, 2, 0])  # on the second stage a's copy reads b's, b's reads c's, c's reads a's
    branch(network, 1, [0, 0, 1])  # on the third a's and b's read a's, c's reads b's
    assert values_of(network(ONE, TASKS)) == {"a": 2.0, "b": 2.0, "c": 3.0}
    assert network.tree() == [[["a", "b"], ["c"]], [["a", "b"], ["c"]], [["a"], ["b"], ["c"]]]
    branch(network, 0, [1, 1, 0])
    assert network.tree() == [[["a", "b", "c"]], [["a", "b"], ["c"]], [["a"], ["b"], ["c"]]]
    assert values_of(network(ONE, ["c"])) == {"c": 2.0}


def test_training_draws_one_parent_as_often_as_its_logits_say() -> None:
    network = three(stages=2)
    put(network.get_parameter("logits.0.0"), [0.0, 1.0, -0.5])
    drawn = torch.tensor([values_of(network(ONE, ["a"]))["a"] for _ in range(4000)])
    found = [(drawn - value).abs().lt(1e-4).float().mean().item() for value in (1, 2, 3)]
    total = exp(0.0) + exp(1.0) + exp(-0.5)
    assert sum(found) == pytest.approx(1.0)
    for share, logit in zip(found, (0.0, 1.0, -0.5), strict=True):
        expected = exp(logit) / total
        assert share == pytest.approx(expected, abs=4 * sqrt(expected * (1 - expected) / 4000))  # 4 standard errors


def test_the_gradient_is_that_of_the_softmax() -> None:
    network = three(stages=2)
    torch.manual_seed(3)
    torch.autograd.backward([network(ONE, ["a"]).per_task["a"].sum()])
    torch.manual_seed(3)
    noise = -torch.empty(3, 3).exponential_().log()[0]  # of the first copy
    logits = torch.zeros(3, requires_grad=True)
    soft = ((logits + noise) / 10.0).softmax(-1)
    (expected,) = torch.autograd.grad(soft @ torch.tensor([1.0, 2.0, 3.0]), logits)
    torch.testing.assert_close(network.get_parameter("logits.0.0").grad, expected)


def test_the_warm_up_reads_all_parents() -> None:
    network, found = three(stages=2, warmup=2), []
    for _ in range(3):
        found.append(values_of(network(ONE, ["a"]))["a"])
        network.after_update()
    assert found[:2] == pytest.approx([2.0, 2.0])
    assert min(abs(found[2] - value) for value in (1, 2, 3)) < 1e-4
    assert network.seen == 3


def test_the_temperature_falls_by_the_count_of_updates() -> None:
    network = LearningToBranch(NUMBER, TASKS, temperature=8.0, period=2, warmup=3)
    found = []
    for _ in range(10):
        found.append(float(network.tau()))
        network(ONE, TASKS)
        network(ONE, TASKS)  # forwards do not count
        network.after_update()
    assert found[:4] == [8.0] * 4
    assert found[9] == pytest.approx(8.0 / sqrt(1 + 6 / 2))
    again = LearningToBranch(NUMBER, TASKS, temperature=8.0, period=2, warmup=3)
    again.load_state_dict(network.state_dict())
    assert again.tau() == network.tau()


def test_draws_come_from_torchs_random_state() -> None:
    network, found = three(), []
    for _ in range(2):
        torch.manual_seed(5)
        found.append([values_of(network(ONE, TASKS)) for _ in range(10)])
    assert found[0] == found[1]
    assert len({tuple(values.values()) for values in found[0]}) > 1
