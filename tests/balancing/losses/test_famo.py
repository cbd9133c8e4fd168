"""FAMO: its objective and its step by hand, absent tasks, what it remembers, torchjd's and LibMTL's numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torchjd.scalarization
from torch import Tensor

from mtl_lightning.balancing.losses.famo import FAMO
from mtl_lightning.types import ConfigurationError
from tests.balancing.loss_cases import LOSSES, assert_golden, flags, reloaded, weights_of
from tests.golden import Case, cases


def update(balancer: FAMO, before: Tensor, after: Tensor, present: Tensor | None = None) -> None:
    balancer(before, present)
    balancer.after_update(lambda: after)


def random_losses(seed: int, tasks: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.2
    return before, before * (0.9 + 0.15 * torch.rand(tasks, generator=generator, dtype=torch.float64))


def trained(steps: int = 4) -> FAMO:
    balancer = FAMO(3).double()
    for seed in range(steps):
        update(balancer, *random_losses(seed))
    return balancer


def test_weights_are_convex_and_in_inverse_proportion_to_the_losses() -> None:
    weights = weights_of(FAMO(3).double(), LOSSES)
    assert weights.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7], rel=1e-7)


def test_the_value_by_hand() -> None:
    balancer = FAMO(2, min_losses=[1.0, 0.0]).double()
    with torch.no_grad():
        balancer.logits.copy_(torch.tensor([math.log(3.0), 0.0]))
    factor = 1 / (0.75 / 1 + 0.25 / 4)
    expected = factor * (0.75 * math.log(1.0) + 0.25 * math.log(4.0))
    assert balancer(torch.tensor([2.0, 4.0], dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-7)


def test_a_task_that_fell_less_weighs_more() -> None:
    balancer = FAMO(3).double()
    update(balancer, LOSSES, LOSSES * torch.tensor([0.5, 0.9, 0.99]))
    assert balancer.logits.tolist() == pytest.approx([-0.025, 0.025, 0.025], rel=1e-3)  # Adam's first step


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 1.0])
def test_the_step_is_adams(weight_decay: float) -> None:
    balancer = FAMO(3, lr=0.1, weight_decay=weight_decay).double()
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1, weight_decay=weight_decay)
    for seed in range(6):
        before, after = random_losses(seed)
        update(balancer, before, after)
        optimizer.zero_grad()
        fall = torch.log(before + 1e-8) - torch.log(after + 1e-8)
        torch.autograd.backward((logits.softmax(0) * fall).sum())
        optimizer.step()
        torch.testing.assert_close(balancer.logits, logits.detach(), rtol=1e-10, atol=1e-12)


def test_an_absent_task_keeps_its_logit_and_its_moments() -> None:
    balancer, others = trained(), FAMO(2).double()
    kept = [tensor[1].clone() for tensor in balancer.state_dict().values()]
    others.load_state_dict({name: tensor[[0, 2]] for name, tensor in balancer.state_dict().items()})
    before, after = random_losses(9)
    before[1] = after[1] = math.nan
    present = flags(1, 0, 1)
    torch.testing.assert_close(balancer(before, present), others(before[[0, 2]]), rtol=1e-14, atol=0.0)
    update(balancer, before, after, present)
    update(others, before[[0, 2]], after[[0, 2]])
    assert [tensor[1] for tensor in balancer.state_dict().values()] == kept
    torch.testing.assert_close(balancer.logits[[0, 2]], others.logits, rtol=1e-14, atol=0.0)


def test_nothing_is_learned_twice_or_without_an_objective() -> None:
    balancer = trained()
    before = balancer.logits.clone()
    balancer.after_update(lambda: LOSSES)
    assert torch.equal(balancer.logits, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_teach_nothing(bad: float) -> None:
    balancer = trained()
    update(balancer, LOSSES, LOSSES * torch.tensor([0.9, bad, 0.5]))
    update(balancer, LOSSES * torch.tensor([bad, 1.0, 1.0]), LOSSES)
    assert all(tensor.isfinite().all() for tensor in balancer.state_dict().values())


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_loss_at_or_below_its_bound_gives_nothing_that_is_not_finite(low: float) -> None:
    balancer = FAMO(3).double()
    losses = torch.tensor([low, 1.0, 2.0], dtype=torch.float64)
    assert weights_of(balancer, losses).isfinite().all()
    update(balancer, losses, losses)
    assert balancer.logits.isfinite().all()


def test_goes_on_after_a_reload() -> None:
    balancer = trained()
    fresh = reloaded(balancer, FAMO(3).double())
    for part in (balancer, fresh):
        update(part, *random_losses(7))
    assert balancer.logits.abs().max() > 0.01
    assert torch.equal(fresh.logits, balancer.logits)


def test_nothing_is_for_the_users_optimizer() -> None:
    assert list(FAMO(3).parameters()) == []


def test_agrees_with_torchjd() -> None:
    ours = FAMO(3, min_losses=[0.05, 0.1, 0.0]).double()
    theirs = torchjd.scalarization.FAMO(3, min_losses=torch.tensor([0.05, 0.1, 0.0])).double()
    for seed in range(6):
        before, after = random_losses(seed)
        torch.testing.assert_close(ours(before), theirs(before), rtol=1e-10, atol=1e-12)
        ours.after_update(after.clone)
        theirs.update(after)


@pytest.mark.parametrize("case", cases("FAMO"), ids=str)
def test_libmtl(case: Case) -> None:
    balancer = FAMO(case.tasks, lr=case.hyper["FAMO_w_lr"], weight_decay=case.hyper["FAMO_w_gamma"]).double()
    for recorded in case.steps:
        torch.testing.assert_close(balancer.logits, recorded["state_before"]["w"], rtol=1e-6, atol=1e-9)
        assert_golden(recorded, weights_of(balancer, recorded["losses"]), rtol=1e-6)
        balancer.after_update(recorded["losses_after_step"].clone)
        torch.testing.assert_close(balancer.logits, recorded["state_after"]["w"], rtol=1e-6, atol=1e-9)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one number for each of 2 tasks, found"):
        FAMO(2, min_losses=[0.0])
