"""GradNorm: its slope by autograd, the paper's loop by hand, the reference's numbers, absent tasks."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.gradients.gradnorm import GradNorm, slopes
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.rows import (
    DEGENERATE,
    balanced_rows,
    everyone,
    random_rows,
    reloaded,
    some_losses,
    update,
    updates,
)
from tests.golden import Case, cases

TERM = Likelihood(0.5, 0.5, "log_var")
as_in_libmtl = partial(
    GradNorm, initial_losses="first_epoch", normalization="softmax", weight_heads=False, level="parameters"
)


def gradnorm_loss(weights: Tensor, rows: Tensor, losses: Tensor, first: Tensor, alpha: float) -> Tensor:
    """The paper's equation 2, from weighted gradients."""
    sizes = (weights.unsqueeze(1) * rows).norm(dim=1)
    ratios = losses / first
    target = (sizes.mean() * (ratios / ratios.mean()) ** alpha).detach()
    found: Tensor = (sizes - target).abs().sum()
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_slope_is_that_of_the_papers_loss(alpha: float) -> None:
    rows, losses, first = random_rows(4), some_losses(4, seed=1), some_losses(4, seed=2)
    weights = torch.tensor([0.5, 2.0, 1.0, 0.7], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(gradnorm_loss(weights, rows, losses, first, alpha), weights)
    found = slopes(weights.detach(), rows.norm(dim=1), losses, first, alpha)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_run_is_that_of_the_papers_algorithm() -> None:
    balancer = GradNorm(3, alpha=1.5, lr=0.025).double()
    weights = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    adam, first = torch.optim.Adam([weights], lr=0.025), some_losses(seed=0)
    for step in range(20):
        rows, losses = random_rows(seed=step), some_losses(seed=step)
        expected = weights.detach() @ rows
        torch.testing.assert_close(update(balancer, rows, losses), expected, rtol=1e-10, atol=1e-10)
        (weights.grad,) = torch.autograd.grad(gradnorm_loss(weights, rows, losses, first, 1.5), weights)
        adam.step()
        with torch.no_grad():
            weights.mul_(3 / weights.sum())
    torch.testing.assert_close(balancer.numbers, weights.detach(), rtol=1e-10, atol=1e-10)
    assert balancer.numbers.sub(1).abs().max() > 0.05


@pytest.mark.parametrize("case", cases("GradNorm"), ids=str)
def test_golden(case: Case) -> None:
    present = everyone(case.tasks)
    for index, step in enumerate(case.steps):
        balancer = as_in_libmtl(case.tasks, alpha=case.hyper["alpha"]).double()
        if index:  # the reference begins with the second epoch, at the first one's means
            balancer.after_epoch(step["epoch_loss_history"][:, 0], present)
        balancer.numbers.copy_(step["state_before"]["loss_scale"])
        rows = balanced_rows(case, step)
        weights = balancer.task_weights(rows @ rows.T, step["losses"], present)
        if not index:
            # in the first epoch the weights are 1; on features the reference then leaves the trunk without a gradient
            expected = step["grad_shared"] if not case.on_features else step["J"].sum(0)
            torch.testing.assert_close(weights @ step["J"], expected, rtol=1e-9, atol=1e-9)
            continue
        torch.testing.assert_close(weights @ step["J"], step["grad_shared"], rtol=1e-9, atol=1e-9)
        before = balancer.numbers.clone()
        balancer.after_update(lambda: torch.zeros(0))
        torch.testing.assert_close(balancer.adam.first * 10, step["loss_scale_grad"], rtol=1e-6, atol=1e-9)
        moved = balancer.numbers - before
        assert torch.equal(moved.sign(), -step["loss_scale_grad"].sign())
        assert (step["head_multiplier"] == 1).all()
        assert not balancer.weight_heads


def test_tasks_with_large_gradients_lose_weight() -> None:
    balancer = GradNorm(2, alpha=0.0, lr=0.05).double()
    rows, losses = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for _ in range(200):
        gradient = update(balancer, rows, losses)
    torch.testing.assert_close(balancer.numbers, torch.tensor([0.4, 1.6], dtype=torch.float64), rtol=0, atol=0.05)
    torch.testing.assert_close(gradient[0], gradient[1], rtol=0.1, atol=0)


def test_slow_tasks_gain_weight() -> None:
    balancer = GradNorm(2, alpha=1.5).double()
    rows = torch.eye(2, dtype=torch.float64)
    update(balancer, rows, torch.tensor([1.0, 5.0], dtype=torch.float64))
    for _ in range(5):
        update(balancer, rows, torch.tensor([0.9, 1.0], dtype=torch.float64))
    assert balancer.numbers[0] > 1.05
    assert balancer.numbers.sum().item() == pytest.approx(2)


def test_weights_stay_above_the_floor() -> None:
    balancer = GradNorm(2, alpha=0.0, lr=0.5, floor=0.1).double()
    rows, losses = torch.tensor([[1e6, 0.0], [0.0, 1e-6]], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for _ in range(50):
        update(balancer, rows, losses)
    assert 0.07 < balancer.numbers[0] <= 0.1  # the scaling to the sum comes after the floor
    assert balancer.numbers.sum().item() == pytest.approx(2)


def test_first_losses_are_seen_task_by_task() -> None:
    balancer = GradNorm(3)
    rows = random_rows()
    update(balancer, rows, torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([True, False, True]))
    assert balancer.first_losses.tolist() == [1.0, 0.0, 3.0]
    update(balancer, rows, torch.tensor([7.0, 8.0, 9.0]).double(), torch.tensor([True, True, False]))
    assert balancer.first_losses.tolist() == [1.0, 8.0, 3.0]


def test_an_absent_tasks_weight_stays_and_the_others_sum_to_their_number() -> None:
    balancer = GradNorm(3).double()
    updates(balancer, 4)
    before, steps = balancer.numbers.clone(), balancer.adam.steps.clone()
    present = torch.tensor([True, False, True])
    rows = random_rows(seed=9)
    weights = balancer.task_weights(rows[present] @ rows[present].T, some_losses()[present], present)
    assert weights.sum().item() == pytest.approx(2)
    torch.testing.assert_close(weights[0] / weights[1], before[0] / before[2])
    balancer.after_update(lambda: torch.zeros(0))
    assert balancer.numbers[1] == before[1]
    assert (balancer.adam.steps - steps).tolist() == [1, 0, 1]
    assert balancer.numbers.sum().item() == pytest.approx(3)
    assert not torch.equal(balancer.numbers, before)


def test_nothing_is_learned_before_the_update_is_made() -> None:
    balancer = GradNorm(3)
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    rows = random_rows()
    for _ in range(2):
        balancer.gradient(rows, some_losses(), everyone())
    torch.testing.assert_close(balancer.state_dict(), before, rtol=0, atol=0)
    balancer.after_update(lambda: torch.zeros(0))
    assert not torch.equal(balancer.numbers, before["numbers"])
    learned = balancer.numbers.clone()
    balancer.after_update(lambda: torch.zeros(0))
    assert torch.equal(balancer.numbers, learned)


def test_the_first_epoch_gives_the_first_losses() -> None:
    balancer = GradNorm(3, initial_losses="first_epoch").double()
    updates(balancer, 3)
    assert balancer.numbers.tolist() == [1.0, 1.0, 1.0]
    balancer.after_epoch(torch.tensor([4.0, 9.0, 0.0]), torch.tensor([True, False, False]))
    updates(balancer, 1)
    assert balancer.first_losses.tolist() == [4.0, 0.0, 0.0]
    assert balancer.numbers.tolist() == [1.0, 1.0, 1.0]  # alone, it is as fast as the mean
    balancer.after_epoch(torch.tensor([5.0, 6.0, 7.0]), everyone())
    assert balancer.first_losses.tolist() == [4.0, 6.0, 7.0]
    updates(balancer, 1)
    assert balancer.numbers.ne(1).all()


def test_epochs_matter_only_where_they_give_the_first_losses() -> None:
    assert not GradNorm(3).follows_epochs
    assert GradNorm(3, initial_losses="first_epoch").follows_epochs


def test_initial_losses_by_name_and_by_place() -> None:
    named = GradNorm(3, initial_losses={"b": math.log(10)})
    with pytest.raises(ConfigurationError, match=r"expected `bind` to tell which tasks \['b'\] are"):
        update(named, random_rows(), some_losses())
    named.bind(dict.fromkeys("abc", TERM))
    update(named, random_rows(), torch.tensor([1.0, 2.0, 3.0]).double())
    assert named.first_losses.tolist() == pytest.approx([1.0, math.log(10), 3.0])
    listed = GradNorm(3, initial_losses=[1.0, math.log(10), 3.0])
    update(listed, random_rows(), some_losses())
    torch.testing.assert_close(listed.first_losses, named.first_losses)


@pytest.mark.parametrize("make", [GradNorm, as_in_libmtl])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_and_losses(make: Any, name: str) -> None:
    balancer = make(3).double()
    rows = DEGENERATE[name]
    for losses in ([1.0, 2.0, 3.0], [0.0, 1e-30, 1e30], [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0]):
        balancer.after_epoch(torch.tensor([1.0, 1e-30, 0.0]), everyone())
        for _ in range(3):
            gradient = update(balancer, rows, torch.tensor(losses, dtype=torch.float64))
        assert gradient.isfinite().all()
        assert gradient.any() == rows.sum(0).any() or name == "opposing"
        assert all(value.isfinite().all() for value in balancer.state_dict().values())


def test_one_task_keeps_its_gradient() -> None:
    balancer, rows = GradNorm(1), random_rows(1)
    for _ in range(3):
        torch.testing.assert_close(update(balancer, rows, some_losses(1)), rows[0])


def test_the_tasks_order_does_not_matter() -> None:
    order = torch.tensor([2, 0, 1])
    plain, permuted = GradNorm(3).double(), GradNorm(3).double()
    for step in range(4):
        rows, losses = random_rows(seed=step), some_losses(seed=step)
        expected, found = update(plain, rows, losses), update(permuted, rows[order], losses[order])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(permuted.numbers, plain.numbers[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [GradNorm, as_in_libmtl])
def test_resuming_goes_on_as_if_nothing_had_happened(make: Any) -> None:
    whole, first = make(3).double(), make(3).double()
    for balancer in (whole, first):
        updates(balancer, 4)
        balancer.after_epoch(some_losses(), everyone())
    second = reloaded(partial(make, 3), first)
    assert torch.equal(updates(second, 4, start=4), updates(whole, 4, start=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "mean"}, r"one of \['sum', 'softmax'\], found 'mean'"),
        ({"initial_losses": "second_epoch"}, "values or one of .*, found 'second_epoch'"),
        ({"initial_losses": [1.0, 2.0]}, r"3 positive numbers, found \[1.0, 2.0\]"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GradNorm(3, **options)


def test_initial_losses_of_no_task() -> None:
    with pytest.raises(ConfigurationError, match=r"of the tasks \['a', 'b', 'c'\], found some of \['d'\]"):
        GradNorm(3, initial_losses={"d": 1.0}).bind(dict.fromkeys("abc", TERM))
