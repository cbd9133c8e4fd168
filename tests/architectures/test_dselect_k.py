from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch

from mtl_lightning.architectures import DSelectK
from mtl_lightning.architectures.dselect_k import smooth_step
from mtl_lightning.types import ConfigurationError
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, put, times, values_of

TASKS = ["a", "b"]


def selecting(codes: list[float], shares: list[float], experts: int, **options: Any) -> DSelectK:
    """Two selectors with these numbers before the smooth step, whatever the input; expert e gives 10 ** e."""
    encoders = one_after_the_other(*(times(10.0**e) for e in range(experts)))
    network = DSelectK(NUMBER, TASKS, encoder=encoders, num_experts=experts, **options)
    for task in TASKS:
        for name in ("code", "share"):
            put(network.selectors.get_parameter(f"{task}.{name}.weight"), 0)
        put(network.selectors.get_parameter(f"{task}.code.bias"), codes)
        put(network.selectors.get_parameter(f"{task}.share.bias"), shares)
    return network


def test_codes_choose_experts() -> None:
    # selector 1: bits 1, 0: expert 1. Selector 2: bit 0 undecided, bit 1 set: experts 2 and 3, half each
    network = selecting([5, -5, 0, 5], [log(3), 0], 4, entropy=0.1)
    features = network(ONE, TASKS)
    expected = 0.75 * 10 + 0.125 * 100 + 0.125 * 1000
    assert values_of(features) == pytest.approx({"a": expected, "b": expected})
    assert features.aux["selection"].item() == pytest.approx(0.1 * 2 * log(2), rel=1e-4)  # of two tasks


def test_codes_that_are_no_experts_are_penalised() -> None:
    # of 3 experts, code 3 is none: selector 1 gives half its weight to it; selector 2 chooses expert 0
    network = selecting([0, 5, -5, -5], [0, 0], 3, entropy=1.0)
    features = network(ONE, ["a"])
    assert values_of(features)["a"] == pytest.approx(0.5 * 0.5 * 100 + 0.5 * 1)
    assert features.aux["selection"].item() == pytest.approx(0.5 * log(2) + 1 / 0.5 + 1, rel=1e-4)


def test_a_selector_of_no_expert_has_a_finite_penalty() -> None:
    features = selecting([5, 5, 5, 5], [0, 0], 3)(ONE, TASKS)
    assert values_of(features) == {"a": 0.0, "b": 0.0}
    assert features.aux["selection"].isfinite()


def test_the_auxiliary_loss_does_not_depend_on_the_batch_size() -> None:
    network = DSelectK(NUMBER, TASKS, num_experts=5)
    row = torch.randn(1, 1)
    one, many = (network(row.repeat(number, 1), TASKS).aux["selection"] for number in (1, 7))
    torch.testing.assert_close(one, many)
    assert DSelectK(NUMBER, TASKS, entropy=0)(row, TASKS).aux == {}


def test_descending_the_auxiliary_loss_makes_the_selection_sparse() -> None:
    network = DSelectK(NUMBER, ["a"], encoder=times(1), num_experts=8, num_selected=2)
    optimizer = torch.optim.Adam(network.selectors.parameters(), lr=0.02)
    inputs = torch.randn(32, 1)

    def chosen() -> float:
        weights, _ = network.selectors["a"](inputs)
        return float((weights > 1e-3).sum(1).float().mean())

    assert chosen() == 8
    for _ in range(200):
        optimizer.zero_grad()
        torch.autograd.backward([network(inputs, ["a"]).aux["selection"] / network.entropy])
        optimizer.step()
    assert chosen() <= 3  # two selectors of one expert each, but for rows at a border


def test_the_smooth_step_is_the_cubic_of_the_paper() -> None:
    gamma = 0.6
    z = torch.tensor([-1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    step = smooth_step(z, gamma)
    expected = [0, 0, *(-2 / gamma**3 * t**3 + 3 / (2 * gamma) * t + 0.5 for t in (-0.1, 0.0, 0.1)), 1, 1]
    assert step.tolist() == pytest.approx(expected)
    (slope,) = torch.autograd.grad(step.sum(), z)
    assert slope[[0, 1, 5, 6]].tolist() == pytest.approx([0, 0, 0, 0])
    assert (slope[2:5] > 0).all()


@pytest.mark.parametrize("experts", [2, 3, 4, 6, 9])
def test_weights_of_all_experts_sum_to_one_where_all_codes_are_experts(experts: int) -> None:
    weights, _ = DSelectK(NUMBER, TASKS, num_experts=experts).selectors["a"](torch.randn(5, 1))
    assert weights.shape == (5, experts)
    power = experts & (experts - 1) == 0
    assert torch.allclose(weights.sum(1), torch.ones(5)) is power


def test_no_more_experts_are_selected_than_there_are() -> None:
    with pytest.raises(ConfigurationError, match="`num_selected` of at most `num_experts`, 8, found 9"):
        DSelectK(NUMBER, TASKS, num_selected=9)
