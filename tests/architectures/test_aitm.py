from __future__ import annotations

from functools import partial
from math import exp
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import AITM, MLP
from mtl_lightning.data import SyntheticFunnel
from mtl_lightning.types import ConfigurationError, TensorSpec
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, put, times, values_of
from tests.helpers import fit

TASKS = ["click", "cart", "buy"]


def chain(**options: Any) -> AITM:
    """Encoders that multiply by 2, 3 and 1; all of Q, K, V and the gates pass numbers on."""
    network = AITM(NUMBER, TASKS, encoder=one_after_the_other(times(2), times(3), times(1)), **options)
    for name, parameter in network.transfers.named_parameters():
        put(parameter, 0 if name.endswith("bias") else 1)
    return network


def transfer(own: float, before: float, value: float = 1.0) -> float:
    """Attention over the two numbers, whose scores are their squares."""
    weights = exp(own**2), exp(before**2)
    return value * (weights[0] * own + weights[1] * before) / sum(weights)


def test_each_task_attends_to_itself_and_to_what_the_one_before_hands_on() -> None:
    cart = transfer(3, 2)
    expected = {"click": 2.0, "cart": cart, "buy": transfer(1, cart)}
    assert values_of(chain()(ONE, TASKS)) == pytest.approx(expected)


def test_queries_keys_values_and_the_gate_are_where_the_paper_has_them() -> None:
    network = chain()
    put(network.transfers.get_parameter("cart.query.weight"), [[0.5]])
    put(network.transfers.get_parameter("cart.key.weight"), [[0.25]])
    put(network.transfers.get_parameter("cart.value.weight"), [[7.0]])
    put(network.transfers.get_parameter("cart.gate.0.weight"), [[-1.0]])  # the ReLU then hands on 0
    weight = exp(0.5 * 3 * 0.25 * 3)
    assert values_of(network(ONE, ["cart"]))["cart"] == pytest.approx(7 * 3 * weight / (weight + 1))


def test_scores_are_divided_by_the_root_of_the_width() -> None:
    network = AITM(TensorSpec((4,)), ["a", "b"], encoder=lambda _: nn.Linear(4, 4))
    transfer: Any = network.transfers["b"]
    own, before = torch.randn(3, 4), torch.randn(3, 4)
    handed = transfer.gate(before)
    scores = [(transfer.query(u) * transfer.key(u)).sum(1) / 2 for u in (own, handed)]  # the root of 4
    weight = torch.sigmoid(scores[0] - scores[1]).unsqueeze(1)
    torch.testing.assert_close(
        transfer(own, before), weight * transfer.value(own) + (1 - weight) * transfer.value(handed)
    )


def test_the_order_is_a_choice() -> None:
    network = AITM(NUMBER, TASKS, order=["buy", "click", "cart"])
    assert [*network.transfers] == ["click", "cart"]
    assert {*network.task_parameters()} == {"cart"}
    with pytest.raises(ConfigurationError, match=r"expected `order` to be an order of .*, found \['buy'\]"):
        AITM(NUMBER, TASKS, order=["buy"])


def test_tasks_behind_the_last_one_asked_for_are_not_run() -> None:
    network, calls = chain(), list[str]()
    for task, encoder in network.encoders.items():
        encoder.register_forward_hook(lambda *_, task=task: calls.append(task))
    assert {*network(ONE, ["cart"]).per_task} == {"cart"}
    assert calls == ["click", "cart"]


def test_a_stopped_gradient_leaves_the_values_and_makes_each_part_its_tasks() -> None:
    network = chain(stop_gradient=True)
    assert values_of(network(ONE, TASKS)) == pytest.approx(values_of(chain()(ONE, TASKS)))
    torch.autograd.backward([network(ONE, ["buy"]).per_task["buy"].sum()])
    reached = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.count_nonzero()]
    owned = {id(p) for p in network.task_parameters()["buy"]}
    assert reached
    assert all(id(network.get_parameter(name)) in owned for name in reached)
    assert {*network.task_parameters()} == {*TASKS}


def test_encoders_share_a_trunk_if_there_is_one() -> None:
    network = AITM(TensorSpec((3, 8, 8)), TASKS, trunk=nn.Flatten, encoder=lambda _: nn.Linear(192, 5))
    assert network(torch.randn(2, 3, 8, 8), TASKS).per_task["buy"].shape == (2, 5)


def outputs(**logits: float) -> dict[str, torch.Tensor]:
    return {task: torch.tensor([[value], [-value]]) for task, value in logits.items()}


def test_a_later_event_likelier_than_the_one_before_costs() -> None:
    def p(x: float) -> float:
        return 1 / (1 + exp(-x))

    network = chain(calibration=0.6)
    found = network.output_losses(outputs(buy=2.0, cart=1.0, click=-1.0))
    rows = [p(1) - p(-1) + p(2) - p(1), 0.0]  # the second row has all signs turned: its probabilities fall
    assert found["calibration"].item() == pytest.approx(0.6 * sum(rows) / 2)
    assert network.output_losses(outputs(buy=2.0, click=-1.0))["calibration"].item() == pytest.approx(
        0.6 * (p(2) - p(-1)) / 2  # without a task, what follows it is compared with what precedes it
    )
    assert network.output_losses(outputs(buy=2.0)) == {}
    assert chain().output_losses(outputs(buy=2.0, click=-1.0)) == {}


def test_calibrated_probabilities_fall_along_the_funnel() -> None:
    """Too few labels to tell the tasks' order everywhere, which the calibration knows."""

    def violation(calibration: float) -> float:
        torch.manual_seed(0)
        data = SyntheticFunnel(n=300, click=-1.0, conversion=2.0, tasks={"conversion": None}, batch_size=100)
        module = MultiTaskModule(
            tasks=data.tasks,
            input_spec=data.input_spec,
            architecture=partial(AITM, encoder=partial(MLP, hidden=[16]), calibration=calibration),
            optimizers={"default": partial(torch.optim.Adam, lr=1e-2)},
        )
        fit(module, data, max_epochs=10, precision="32-true", limit_val_batches=0)
        with torch.no_grad():
            found = module(torch.randn(1000, 20))
        return float((found["click_and_conversion"].sigmoid() - found["click"].sigmoid()).relu().mean())

    plain, calibrated = violation(0.0), violation(0.6)
    assert plain > 0.01
    assert calibrated < 0.7 * plain


def test_features_are_vectors() -> None:
    with pytest.raises(ConfigurationError, match=r"AITM: expected an encoder with vectors \(D,\) .* found \(2, 6, 6\)"):
        AITM(TensorSpec((1, 8, 8)), TASKS, encoder=lambda _: nn.Conv2d(1, 2, 3))
