"""DB-MTL: by hand, LibMTL's recorded numbers, absent tasks, reloads."""

from __future__ import annotations

import pytest
import torch

from mtl_lightning.balancing import Balancer
from mtl_lightning.balancing.gradients.db_mtl import DBMTL
from tests.balancing.matrices import DOUBLE, all_present, check_finite, check_order, check_resume, random_rows, update
from tests.golden import Case, cases


def test_every_task_pulls_as_hard_as_the_hardest() -> None:
    rows = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    found = update(DBMTL(2, beta=0.0).double(), rows)
    torch.testing.assert_close(found, torch.tensor([3.0, 4.0, 5.0], dtype=DOUBLE))


def test_averages_by_hand() -> None:
    balancer = DBMTL(1, beta=0.8, sigma=1.0).double()
    rows = torch.tensor([[1.0, 0.0]], dtype=DOUBLE)
    torch.testing.assert_close(update(balancer, rows)[0].item(), 0.2)  # not corrected for the start at 0
    torch.testing.assert_close(update(balancer, 2 * rows)[0].item(), 0.4 * 0.2 + 0.6 * 2)


@pytest.mark.parametrize("case", cases("DB_MTL"), ids=str)
def test_the_reference(case: Case) -> None:
    balancer = DBMTL(case.tasks, beta=case.hyper["DB_beta"], sigma=case.hyper["DB_beta_sigma"]).double()
    for step in case.steps:
        losses = step["losses"].clone().requires_grad_()
        (weights,) = torch.autograd.grad(balancer(losses), losses)
        torch.testing.assert_close(weights, step["head_multiplier"], rtol=1e-9, atol=0)
        found = balancer.gradient(weights.unsqueeze(1) * step["J"], step["losses"], all_present(case.tasks))
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(balancer.average, step["state_after"]["grad_buffer"], rtol=1e-9, atol=1e-12)


def test_the_losses_scale_does_not_matter() -> None:
    losses = torch.tensor([0.3, 2.0], dtype=DOUBLE)
    rows = random_rows(2)
    updates = []
    for factor in (1.0, 50.0):
        balancer, scaled = DBMTL(2).double(), (factor * losses).requires_grad_()
        (weights,) = torch.autograd.grad(balancer(scaled), scaled)
        updates.append(update(balancer, weights.unsqueeze(1) * factor * rows))
    torch.testing.assert_close(updates[0], updates[1], rtol=1e-6, atol=0)


def test_an_absent_task_counts_for_nothing_and_stays_as_it_was() -> None:
    balancer = DBMTL(3).double()
    update(balancer, random_rows(3))
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    update(balancer, random_rows(3, seed=1), torch.tensor([True, False, True]))
    assert all(torch.equal(value[1], before[name][1]) for name, value in balancer.state_dict().items())
    losses = torch.tensor([1.5, float("nan"), 0.7], dtype=DOUBLE, requires_grad=True)
    objective = balancer(losses, torch.tensor([True, False, True]))
    torch.autograd.backward(objective)
    torch.testing.assert_close(objective.item(), torch.tensor([1.5, 0.7], dtype=DOUBLE).log().sum().item())
    assert losses.grad is not None
    assert losses.grad[1] == 0


def test_another_loss_balancer_takes_the_logarithms_place() -> None:
    losses = torch.tensor([1.5, 0.7])
    assert DBMTL(2, losses=Balancer)(losses) == losses.sum()


def test_contract() -> None:
    check_resume(DBMTL)
    check_finite(DBMTL)
    check_order(DBMTL)
