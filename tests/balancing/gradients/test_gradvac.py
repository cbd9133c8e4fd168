"""GradVac: its defining equation, LibMTL's recorded numbers, torchjd's class, groups, absent pairs, reloads."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import GradVac as Reference

from mtl_lightning.balancing.gradients.gradvac import GradVac, turn
from mtl_lightning.types import ConfigurationError
from tests.balancing.matrices import DOUBLE, all_present, check_finite, check_order, check_resume, random_rows, update
from tests.golden import Case, cases


def turned(rows: Tensor, targets: Tensor, orders: Tensor, beta: float = 0.0) -> tuple[Tensor, Tensor]:
    shares, moved = turn((rows @ rows.T).unsqueeze(0), targets.unsqueeze(0), orders, beta)
    return shares[0] @ rows, moved[0]


@pytest.mark.parametrize("target", [-0.5, 0.0, 0.3, 0.9])
def test_gradients_are_turned_to_the_target(target: float) -> None:
    rows = torch.tensor([[1.0, 0.0, 0.5], [-3.0, 1.0, 0.0]], dtype=DOUBLE)
    before = torch.cosine_similarity(rows[0], rows[1], dim=0)
    assert before < target
    found, _ = turned(rows, torch.full((2, 2), target, dtype=DOUBLE), torch.tensor([[1], [0]]))
    torch.testing.assert_close(torch.cosine_similarity(found[0], rows[1], dim=0).item(), target)
    torch.testing.assert_close(torch.cosine_similarity(found[1], rows[0], dim=0).item(), target)


def test_gradients_that_agree_enough_are_left_and_targets_follow() -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=DOUBLE)
    found, moved = turned(rows, torch.full((2, 2), 0.5, dtype=DOUBLE), torch.tensor([[1], [0]]), beta=0.1)
    torch.testing.assert_close(found, rows)
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.51], [0.51, 0.5]], dtype=DOUBLE))


def golden_sizes(case: Case) -> list[int]:
    return [24, 6] if case.hyper["GradVac_group_type"] == 2 else [case.steps[0]["J"].shape[1]]


@pytest.mark.parametrize("case", cases("GradVac"), ids=str)
def test_the_reference(case: Case) -> None:
    sizes = golden_sizes(case)
    targets = torch.zeros(len(sizes), case.tasks, case.tasks, dtype=DOUBLE)
    for step in case.steps:
        split = torch.split(step["J"], sizes, dim=1)
        gramians = torch.stack([piece @ piece.T for piece in split])
        orders = step["random_draws"]["shuffle_orders"].long()
        shares, targets = turn(gramians, targets, orders, case.hyper["GradVac_beta"], epsilon=1e-8)
        found = torch.cat([share.sum(0) @ piece for share, piece in zip(shares, split, strict=True)])
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(targets.permute(1, 2, 0), step["state_after"]["rho_T"], rtol=1e-9, atol=1e-9)
        assert bool((step["head_multiplier"] == 1).all())


def test_agrees_with_torchjd() -> None:
    # two tasks leave no choice of orders
    balancer, reference = GradVac(2, beta=0.5, epsilon=1e-8).double(), Reference()
    for seed in range(6):
        rows = random_rows(2, seed=seed)
        torch.testing.assert_close(update(balancer, rows), reference(rows), rtol=1e-9, atol=1e-9)


def test_each_shared_parameter_by_itself() -> None:
    grouped = GradVac(3, groups="matrix", seed=1).double()
    grouped.sizes = (3, 4)
    for seed in range(3):
        rows = random_rows(3, width=7, seed=seed)
        parts = [GradVac(3, seed=1).double() for _ in range(2)]
        expected: list[Tensor] = []
        for part, piece in zip(parts, torch.split(rows, [3, 4], dim=1), strict=True):
            part.draws.updates = seed
            part.targets = grouped.targets[:, :, len(expected) : len(expected) + 1].clone()
            expected.append(update(part, piece))
        torch.testing.assert_close(update(grouped, rows), torch.cat(expected))
    assert grouped.targets.shape == (3, 3, 2)


def test_the_order_is_drawn_anew_for_each_update() -> None:
    balancer, rows = GradVac(5, beta=0.0, seed=0).double(), random_rows(5)
    found = torch.stack([update(balancer, rows) for _ in range(20)])
    assert len({tuple(row) for row in found.tolist()}) > 10


def test_nobody_visits_itself() -> None:
    orders = GradVac(4, seed=2)._orders(all_present(4), 4)
    assert [sorted(row) for row in orders.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_pairs_with_an_absent_task_stay() -> None:
    balancer = GradVac(3, beta=0.5).double()
    update(balancer, random_rows(3))
    before = balancer.targets.clone()
    update(balancer, random_rows(3, seed=1), torch.tensor([True, False, True]))
    assert torch.equal(balancer.targets[1], before[1])
    assert torch.equal(balancer.targets[:, 1], before[:, 1])
    assert balancer.targets[0, 2] != before[0, 2]
    assert balancer.targets[2, 0] != before[2, 0]


def test_the_scale_of_all_rows_is_that_of_the_update() -> None:
    rows = random_rows(3)
    expected = update(GradVac(3, seed=0), rows)
    torch.testing.assert_close(update(GradVac(3, seed=0), 1e-9 * rows), 1e-9 * expected)


def test_parallel_targets_give_finite_steps() -> None:
    balancer = GradVac(2, beta=1.0).double()
    same, apart = torch.ones(2, 2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE)
    update(balancer, same)
    assert update(balancer, apart).isfinite().all()


def test_one_task_gives_its_own_gradient() -> None:
    rows = random_rows(1)
    torch.testing.assert_close(update(GradVac(1), rows), rows[0])


def test_contract() -> None:
    make = functools.partial(GradVac, beta=0.5, seed=1)
    check_resume(make)
    check_finite(make)


def test_permuted_tasks_and_draws_give_the_same() -> None:
    order = torch.tensor([2, 0, 3, 1])
    balancer = GradVac(4, seed=3).double()
    orders = balancer._orders(all_present(4), 4)
    rows, targets = random_rows(4), 0.5 * random_rows(4, width=4, seed=1).tanh()
    place = order.argsort()
    expected, _ = turned(rows, targets, orders)
    found, _ = turned(rows[order], targets[order][:, order], place[orders[order]])
    torch.testing.assert_close(found, expected[order])


def test_two_tasks_may_change_places() -> None:
    check_order(GradVac, tasks=2, tolerance=1e-6)  # targets in float32


@pytest.mark.parametrize("option", [{"level": "features"}, {"weight_heads": True}, {"rescale": "sum"}])
def test_groups_exclude_options_of_whole_gradients(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="GradVac: expected with groups='matrix'"):
        GradVac(2, groups="matrix", **option)
    assert GradVac(2, **option).gramian
    assert not GradVac(2, groups="matrix").gramian


@pytest.mark.parametrize("groups", ["whole", "matrix"])
def test_rescaling_to_the_norm_of_the_sum(groups: Any) -> None:
    rows = random_rows(3)
    found = update(GradVac(3, groups=groups, rescale="norm").double(), rows)
    torch.testing.assert_close(found.norm(), rows.sum(0).norm())


def test_unknown_groups_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`groups` to be one of .*'matrix'.*, found 'layer'"):
        GradVac(2, groups="layer")  # type: ignore[arg-type]  # on purpose
