"""Nash-MTL: the bargaining equation, its length, and LibMTL's numbers where LibMTL solves it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.gradients.nash_mtl import NashMTL, bargain
from mtl_lightning.types import ConfigurationError
from tests.balancing.rows import DEGENERATE, everyone, random_rows, reloaded, some_losses, update, updates
from tests.golden import Case, cases

CASES = cases("Nash_MTL")


def residual(gramian: Tensor, alphas: Tensor) -> float:
    return float((alphas * (gramian @ alphas) - 1).abs().max())


@pytest.mark.parametrize(("tasks", "size"), [(1, 4), (2, 4), (3, 10), (8, 50), (60, 400)])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_equation_holds(tasks: int, size: int, unit: float) -> None:
    rows = unit * random_rows(tasks, size=size)
    alphas = bargain(rows @ rows.T)
    assert (alphas > 0).all()
    assert residual(rows @ rows.T, alphas) < 1e-6
    torch.testing.assert_close((alphas @ rows).norm().item(), tasks**0.5)


def test_unequal_lengths_are_no_difficulty() -> None:
    rows = random_rows(5, size=30)
    scales = torch.logspace(-6, 6, 5, dtype=torch.float64)
    scaled = scales.unsqueeze(1) * rows
    torch.testing.assert_close(bargain(scaled @ scaled.T) * scales, bargain(rows @ rows.T), rtol=1e-9, atol=0)


def test_orthogonal_gradients_by_hand() -> None:
    rows = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(update(NashMTL(2, max_norm=0), rows, some_losses(2)).tolist(), [1.0, 1.0])
    torch.testing.assert_close(update(NashMTL(2), rows, some_losses(2)).tolist(), [0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize(("max_norm", "length"), [(0.0, 3**0.5), (1.0, 1.0), (0.25, 0.25), (2.0, 3**0.5)])
def test_the_update_is_shortened(max_norm: float, length: float) -> None:
    combined = update(NashMTL(3, max_norm=max_norm), 100 * random_rows(3), some_losses())
    torch.testing.assert_close(combined.norm().item(), length)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_like_libmtl_where_libmtl_solves_the_equation(case: Case) -> None:
    every, max_norm = case.hyper["update_weights_every"], case.hyper["max_norm"]
    balancer = NashMTL(case.tasks, update_weights_every=every, max_norm=max_norm).double()
    exact = True
    for number, step in enumerate(case.steps):
        gramian = step["J"] @ step["J"].T
        found = balancer.task_weights(gramian, step["losses"], everyone(case.tasks))
        balancer.after_update(lambda: torch.zeros(()))
        theirs = step["state_after"]["prvs_alpha"]
        if number % every == 0:
            exact = residual(gramian, theirs) < 1e-5
            assert residual(gramian, balancer.alphas if every > 1 else bargain(gramian)) < 1e-6
        if exact:
            torch.testing.assert_close(found @ step["J"], step["grad_shared"], rtol=1e-5, atol=1e-5)
            longer = float((theirs @ step["J"]).norm()) / max_norm if max_norm else 1.0
            torch.testing.assert_close(found * max(1.0, longer), step["head_multiplier"], rtol=1e-5, atol=0)


def test_a_good_part_of_libmtls_updates_is_exact() -> None:
    steps = [step for case in CASES for step in case.steps if "every2" not in case.name]
    exact = [residual(step["J"] @ step["J"].T, step["state_after"]["prvs_alpha"]) < 1e-5 for step in steps]
    assert sum(exact) == 18


def test_weights_are_kept_for_some_updates() -> None:
    balancer = NashMTL(3, update_weights_every=3, max_norm=0).double()
    rows = [random_rows(3, seed=seed) for seed in range(4)]
    found = [balancer.task_weights(r @ r.T, some_losses(), everyone()) for r in rows[:1]]
    for r in rows[1:]:
        balancer.after_update(lambda: torch.zeros(()))
        found.append(balancer.task_weights(r @ r.T, some_losses(), everyone()))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[3], bargain(rows[3] @ rows[3].T))


def test_an_update_that_is_skipped_keeps_nothing() -> None:
    balancer = NashMTL(3, update_weights_every=2, max_norm=0).double()
    first, second = random_rows(3, seed=0), random_rows(3, seed=1)
    balancer.task_weights(first @ first.T, some_losses(), everyone())
    found = balancer.task_weights(second @ second.T, some_losses(), everyone())
    torch.testing.assert_close(found, bargain(second @ second.T))


def test_a_task_that_comes_back_makes_all_bargain_anew() -> None:
    balancer = NashMTL(3, update_weights_every=5, max_norm=0).double()
    two, rows = torch.tensor([True, True, False]), random_rows(3)
    update(balancer, rows, some_losses(), two)
    assert balancer.alphas[2] == 1
    assert balancer.left.tolist() == [4, 4, 0]
    torch.testing.assert_close(update(balancer, rows, some_losses()), bargain(rows @ rows.T) @ rows)
    assert balancer.left.tolist() == [4, 4, 4]


@pytest.mark.parametrize("every", [1, 2, 4])
def test_training_goes_on_after_a_reload(every: int) -> None:
    fresh = partial(NashMTL, 3, update_weights_every=every)
    straight, first = fresh().double(), fresh().double()
    expected = updates(straight, 8)
    found = torch.cat([updates(first, 4), updates(reloaded(fresh, first), 4, start=4)])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_finite_updates(name: str, max_norm: float) -> None:
    rows = DEGENERATE[name]
    combined = update(NashMTL(3, max_norm=max_norm), rows, some_losses())
    assert combined.isfinite().all()
    assert combined.norm() <= 3**0.5 * (1 + 1e-6)
    assert (combined.norm() > 0.1) == (name != "all zero")


def test_a_zero_gradient_leaves_the_others_to_bargain() -> None:
    rows = DEGENERATE["zero row"]
    found = bargain(rows @ rows.T)
    others = rows[[0, 2]]
    torch.testing.assert_close(found[[0, 2]], bargain(others @ others.T))
    torch.testing.assert_close(found[1], found[[0, 2]].mean())


@pytest.mark.parametrize(
    "options", [{"update_weights_every": 0}, {"max_norm": -1.0}, {"max_norm": float("nan")}, {"rescale": "max"}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected .* found"):
        NashMTL(2, **options)
