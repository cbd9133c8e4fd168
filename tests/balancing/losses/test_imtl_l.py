"""IMTL-L: its terms, its optimum, absent tasks, bounds, torchjd's and LibMTL's numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchjd.scalarization
from torch import Tensor, nn

from mtl_lightning.balancing.losses.imtl_l import IMTLL
from mtl_lightning.balancing.losses.uncertainty import UncertaintyWeighting
from mtl_lightning.types import ConfigurationError
from tests.balancing.loss_cases import LOSSES, flags, reloaded, weights_of
from tests.golden import Case, cases


def s_of(balancer: IMTLL) -> Tensor:
    return torch.cat([s.detach() for s in balancer.log_scales])


def with_s(*values: float) -> IMTLL:
    balancer = IMTLL(len(values)).double()
    with torch.no_grad():
        for s, value in zip(balancer.log_scales, values, strict=True):
            s.fill_(value)
    return balancer


def test_the_sum_at_the_start() -> None:
    assert IMTLL(3)(LOSSES).item() == 7.0


def test_by_hand() -> None:
    balancer = with_s(0.5, -1.0, 0.0)
    expected = math.exp(0.5) * 1 - 0.5 + math.exp(-1.0) * 2 + 1.0 + 4
    assert balancer(LOSSES).item() == pytest.approx(expected, rel=1e-14)
    assert weights_of(balancer, LOSSES).tolist() == pytest.approx([math.exp(0.5), math.exp(-1.0), 1.0], rel=1e-14)


def test_at_the_optimum_every_scaled_loss_is_one() -> None:
    balancer = IMTLL(3).double()
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        torch.autograd.backward(balancer(LOSSES))
        optimizer.step()
    torch.testing.assert_close(s_of(balancer).exp() * LOSSES, torch.ones(3, dtype=torch.float64), rtol=1e-9, atol=0.0)


def test_an_absent_tasks_scale_has_no_gradient() -> None:
    balancer = with_s(0.5, -1.0, 0.3)
    torch.autograd.backward(balancer(LOSSES, flags(1, 0, 1)))
    grads = [0.0 if s.grad is None else s.grad.item() for s in balancer.log_scales]
    assert grads == pytest.approx([math.exp(0.5) - 1, 0.0, 4 * math.exp(0.3) - 1], rel=1e-12)
    assert {index: [p.data_ptr() for p in owned] for index, owned in balancer.owned().items()} == {
        index: [s.data_ptr()] for index, s in enumerate(balancer.log_scales)
    }


def test_bounds_are_applied_after_an_update() -> None:
    balancer = with_s(5.0, -5.0, 1.0)
    balancer.bounds = (-2.0, 3.0)
    balancer.after_update(lambda: LOSSES)
    assert s_of(balancer).tolist() == [3.0, -2.0, 1.0]


def test_twice_uncertainty_weighting_of_the_negative() -> None:
    balancer, other = with_s(0.5, -1.0, 0.3), UncertaintyWeighting(3).double()
    with torch.no_grad():
        for s, log_var in zip(balancer.log_scales, other.log_vars, strict=True):
            log_var.copy_(-s)
    torch.testing.assert_close(balancer(LOSSES), 2 * other(LOSSES))


def test_survives_a_reload() -> None:
    balancer = with_s(0.5, -1.0, 0.3)
    assert torch.equal(reloaded(balancer, IMTLL(3).double())(LOSSES), balancer(LOSSES))


def test_agrees_with_torchjd() -> None:
    theirs = torchjd.scalarization.IMTLL(3).double()
    theirs.log_scale = nn.Parameter(torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64))
    torch.testing.assert_close(with_s(0.5, -1.0, 0.3)(LOSSES), theirs(LOSSES), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("case", cases("IMTL"), ids=str)
def test_libmtl(case: Case) -> None:
    """Of LibMTL's IMTL, which has both halves: the heads' weights, and how the scales are learned."""
    balancer = IMTLL(case.tasks).double()
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.05)
    for recorded in case.steps:
        torch.testing.assert_close(s_of(balancer), recorded["state_before"]["loss_scale"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            weights_of(balancer, recorded["losses"]), recorded["head_multiplier"], rtol=1e-9, atol=0.0
        )
        slopes = torch.cat([s.grad for s in balancer.log_scales if s.grad is not None])
        torch.testing.assert_close(slopes, recorded["loss_scale_grad"], rtol=1e-9, atol=1e-12)
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(s_of(balancer), recorded["state_after"]["loss_scale"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{"bounds": (1.0, -1.0)}, {"init": 9.0}])
def test_bounds_and_starts_that_cannot_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected `bounds`, the smaller one first"):
        IMTLL(2, **options)
