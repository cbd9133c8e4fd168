"""Logarithms and softmax of the present tasks, at the values that make plain ones nan."""

from __future__ import annotations

import math

import pytest
import torch

from mtl_lightning.balancing.tools.masked import masked_log, masked_softmax
from tests.balancing.loss_cases import flags


@pytest.mark.parametrize("absent", [0.0, -1.0, math.nan, math.inf])
def test_the_logarithm_and_its_slope_know_nothing_of_absent_tasks(absent: float) -> None:
    losses = torch.tensor([2.0, absent, 0.5], dtype=torch.float64, requires_grad=True)
    logs = masked_log(losses, flags(1, 0, 1), 1e-8)
    assert logs.tolist() == [math.log(2 + 1e-8), 0.0, math.log(0.5 + 1e-8)]
    torch.autograd.backward(logs.sum())
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([0.5, 0.0, 2.0], rel=1e-7)


def test_a_loss_of_zero_has_a_finite_slope_and_a_negative_one_has_none() -> None:
    losses = torch.tensor([0.0, -3.0], dtype=torch.float64, requires_grad=True)
    logs = masked_log(losses, flags(1, 1), 1e-3)
    assert logs.tolist() == [math.log(1e-3)] * 2
    torch.autograd.backward(logs.sum())
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([1e3, 0.0])


def test_the_softmax_is_that_of_the_present_values() -> None:
    values = torch.tensor([0.3, math.nan, -1.2, math.inf])
    found = masked_softmax(values, flags(1, 0, 1, 0))
    assert found[[0, 2]].tolist() == torch.tensor([0.3, -1.2]).softmax(0).tolist()
    assert found[[1, 3]].tolist() == [0.0, 0.0]
    assert masked_softmax(values, flags(0, 0, 0, 0)).tolist() == [0.0] * 4
