"""CR-MOGM: smoothing by hand, torchjd's class, what the method inside keeps deciding, absent tasks, reloads."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torchjd.aggregation import CRMOGMWeighting, MGDAWeighting

from mtl_lightning.balancing.gradients.cosine_gating import CosineGating
from mtl_lightning.balancing.gradients.cr_mogm import CRMOGM
from mtl_lightning.balancing.gradients.gradvac import GradVac
from mtl_lightning.balancing.gradients.mgda import MGDA
from mtl_lightning.balancing.gradients.moco import MoCo
from mtl_lightning.balancing.losses.uncertainty import UncertaintyWeighting
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.matrices import (
    DOUBLE,
    all_present,
    check_finite,
    check_order,
    check_resume,
    random_rows,
    saved_and_loaded,
    update,
)

GATED = functools.partial(CRMOGM, balancer=CosineGating, alpha=0.75)
FOR = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=DOUBLE)  # the second task passes the gate
AGAINST = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=DOUBLE)


def test_smoothing_by_hand() -> None:
    balancer = GATED(2)
    torch.testing.assert_close(update(balancer, FOR), FOR[0] + FOR[1])
    torch.testing.assert_close(update(balancer, AGAINST), AGAINST[0] + 0.75 * AGAINST[1])
    torch.testing.assert_close(update(balancer, FOR), FOR[0] + (0.75**2 + 0.25) * FOR[1])


def test_agrees_with_torchjd() -> None:
    balancer = CRMOGM(2, alpha=0.6).double()
    reference = CRMOGMWeighting(MGDAWeighting(epsilon=1e-9), alpha=0.6)
    for seed in range(5):
        rows = random_rows(2, seed=seed)
        expected = reference(rows @ rows.T) @ rows
        torch.testing.assert_close(update(balancer, rows), expected, rtol=1e-7, atol=1e-7)


def test_without_smoothing_it_is_the_method_itself() -> None:
    balancer = CRMOGM(3, alpha=0.0)
    for seed in range(3):
        rows = random_rows(3, seed=seed)
        torch.testing.assert_close(update(balancer, rows), update(MGDA(3), rows))


def test_an_absent_task_keeps_its_weight() -> None:
    balancer = GATED(3)
    rows = torch.cat([FOR, torch.tensor([[2.0, 1.0]], dtype=DOUBLE)])
    update(balancer, rows, torch.tensor([True, True, False]))
    assert balancer.seen.tolist() == [True, True, False]
    update(balancer, torch.cat([AGAINST, AGAINST[1:]]), torch.tensor([True, False, True]))
    assert balancer.smoothed.tolist() == [1.0, 1.0, 0.0]  # the third task starts where the method says


def test_the_method_inside_decides_on_all_else() -> None:
    inside = functools.partial(MGDA, losses=UncertaintyWeighting, weight_heads=True, level="features", rescale="sum")
    balancer = CRMOGM(2, balancer=inside)
    assert balancer.weight_heads
    assert balancer.level == "features"
    assert balancer.scale == "linear"
    losses = torch.tensor([1.0, 4.0])
    torch.testing.assert_close(balancer(losses).item(), 2.5)
    owned = [id(parameter) for parameters in balancer.owned().values() for parameter in parameters]
    assert sorted(owned) == sorted(id(parameter) for parameter in balancer.parameters())
    assert balancer.sigmas() is not None
    assert balancer.task_weights(torch.eye(2), losses, all_present(2)).tolist() == [1.0, 1.0]  # rescaled from a half


def test_the_method_inside_gets_to_know_the_names() -> None:
    balancer = CRMOGM(2, balancer=functools.partial(CosineGating, primary="b"))
    balancer.bind(dict.fromkeys("ab", Likelihood(0.5, 0.5, "log_var")))
    torch.testing.assert_close(update(balancer, AGAINST), AGAINST[1])


def test_the_method_inside_draws_anew_after_each_update() -> None:
    balancer = CRMOGM(3, balancer=functools.partial(GradVac, seed=0))
    update(balancer, random_rows(3))
    assert isinstance(balancer.balancer, GradVac)
    assert balancer.balancer.draws.updates == 1


def test_the_state_of_the_method_inside_is_saved() -> None:
    make = functools.partial(CRMOGM, balancer=functools.partial(GradVac, seed=0))
    balancer = make(3)
    update(balancer, random_rows(3))
    loaded = saved_and_loaded(balancer, make(3))
    rows = random_rows(3, seed=1)
    assert torch.equal(update(loaded, rows), update(balancer, rows))


def test_one_task_gives_its_own_gradient() -> None:
    rows = random_rows(1)
    torch.testing.assert_close(update(CRMOGM(1), rows), rows[0])


@pytest.mark.parametrize("make", [CRMOGM, GATED])
def test_contract(make: Any) -> None:
    check_resume(make)
    check_finite(make)


def test_the_order_of_the_tasks_does_not_matter() -> None:
    check_order(CRMOGM, tolerance=1e-6)


@pytest.mark.parametrize("balancer", [MoCo, functools.partial(GradVac, groups="matrix"), lambda _: MGDA(3)])
def test_another_kind_of_method_is_refused(balancer: Any) -> None:
    with pytest.raises(ConfigurationError, match="CRMOGM: expected as `balancer` one for 2 tasks that weighs"):
        CRMOGM(2, balancer=balancer)
