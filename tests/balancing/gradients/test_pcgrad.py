"""PCGrad: the projections by hand, one after the other, and LibMTL's and torchjd's numbers for the same orders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import PCGrad as TorchJDPCGrad

from mtl_lightning.balancing.gradients.pcgrad import PCGrad, project_conflicts
from tests.balancing.rows import DEGENERATE, everyone, random_rows, reloaded, some_losses, update, updates
from tests.golden import Case, cases


def projected(rows: Tensor, orders: Tensor, visit_own: bool) -> Tensor:
    """Algorithm 1 as it stands, on the rows themselves."""
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        current = row.clone()
        for j in orders[i].tolist():
            product = current @ rows[j]
            if product < 0 and (visit_own or j != i):
                current -= product / (rows[j] @ rows[j]) * rows[j]
        total += current
    return total


def random_orders(tasks: int, seed: int = 0) -> Tensor:
    return torch.rand(tasks, tasks, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)


@pytest.mark.parametrize("visit_own", [False, True])
@pytest.mark.parametrize(("tasks", "size"), [(1, 4), (2, 4), (3, 5), (8, 5), (20, 30)])
def test_the_algorithm_as_it_stands(tasks: int, size: int, visit_own: bool) -> None:
    for seed in range(5):
        rows, orders = random_rows(tasks, seed=seed, size=size), random_orders(tasks, seed)
        found = project_conflicts(rows @ rows.T, orders, visit_own) @ rows
        torch.testing.assert_close(found, projected(rows, orders, visit_own), rtol=1e-9, atol=1e-9)


def test_visiting_itself_makes_a_difference() -> None:
    rows, orders = random_rows(8, size=5), random_orders(8)
    plain, own = (project_conflicts(rows @ rows.T, orders, visit) for visit in (False, True))
    assert (plain - own).abs().max() > 0.01


def test_two_tasks_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    # g_1 loses (-1/2)(-1, 1), g_2 loses -1 (1, 0)
    torch.testing.assert_close(update(PCGrad(2), rows, some_losses(2)).tolist(), [0.5, 1.5])
    apart = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert update(PCGrad(2), apart, some_losses(2)).tolist() == [2.0, 1.0]


@pytest.mark.parametrize("case", cases("PCGrad"), ids=str)
def test_like_libmtl(case: Case) -> None:
    for step in case.steps:
        orders = step["random_draws"]["shuffle_orders"].long()
        found = project_conflicts(step["J"] @ step["J"].T, orders, visit_own=True) @ step["J"]
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-6, atol=1e-6)
        assert (step["head_multiplier"] == 1).all()


def test_like_torchjd_for_the_same_orders() -> None:
    rows = random_rows(6, size=10)
    torch.manual_seed(3)
    orders = torch.stack([torch.randperm(6) for _ in range(6)])
    torch.manual_seed(3)
    torch.testing.assert_close(project_conflicts(rows @ rows.T, orders, visit_own=False) @ rows, TorchJDPCGrad()(rows))


def test_orders_change_from_update_to_update() -> None:
    balancer, rows = PCGrad(6, seed=1), random_rows(6, size=4)
    gramian = rows @ rows.T
    first, again = (balancer.task_weights(gramian, some_losses(6), everyone(6)) for _ in range(2))
    assert torch.equal(first, again)
    balancer.after_update(lambda: torch.zeros(()))
    assert not torch.equal(balancer.task_weights(gramian, some_losses(6), everyone(6)), first)


def test_present_tasks_visit_in_the_order_they_always_would() -> None:
    balancer, rows = PCGrad(5, seed=2), random_rows(5, size=4)
    present = torch.tensor([True, False, True, True, True])
    keys = balancer.draws.uniform(5, 5, like=rows)[present][:, present]
    here = rows[present]
    found = update(balancer, rows, some_losses(5), present)
    torch.testing.assert_close(found, projected(here, keys.argsort(dim=1), visit_own=False))


def test_training_goes_on_after_a_reload() -> None:
    straight, first = PCGrad(3, seed=4).double(), PCGrad(3, seed=4).double()
    expected = updates(straight, 6)
    found = torch.cat([updates(first, 3), updates(reloaded(lambda: PCGrad(3), first), 3, start=3)])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("visit_own", [False, True])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_finite_updates(name: str, visit_own: bool) -> None:
    combined = update(PCGrad(3, visit_own=visit_own), DEGENERATE[name], some_losses())
    assert combined.isfinite().all()
    assert (combined.norm() > 0) == (name != "all zero")
