"""MoDo: by hand, LibMTL's recorded numbers, torchjd's weighting, absent tasks, reloads."""

from __future__ import annotations

import pytest
import torch
from torchjd.aggregation import MoDoWeighting

from mtl_lightning.balancing.gradients.modo import MoDo
from tests.balancing.matrices import DOUBLE, all_present, check_finite, check_order, check_resume, random_rows, update
from tests.golden import Case, cases


def test_by_hand() -> None:
    samples = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[2.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]], dtype=DOUBLE)
    # J1 J2' = [[2, 0], [2, 2]]; slope = (1, 2); shares (0.4, 0.3) + 0.15 each
    found = update(MoDo(2, gamma=0.1, rho=0.0).double(), samples)
    torch.testing.assert_close(found, torch.tensor([0.55, 0.45], dtype=DOUBLE))


@pytest.mark.parametrize("case", cases("MoDo"), ids=str)
def test_the_reference(case: Case) -> None:
    balancer = MoDo(case.tasks, gamma=case.hyper["MoDo_gamma"], rho=case.hyper["MoDo_rho"]).double()
    balancer.shares.fill_(1 / case.tasks)
    for step in case.steps:
        found = balancer.gradient(step["J"], step["losses"].mean(0), all_present(case.tasks))
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(balancer.shares, step["state_after"]["lambd"], rtol=1e-9, atol=1e-12)


def test_agrees_with_torchjd() -> None:
    balancer, reference = MoDo(3, gamma=0.1).double(), MoDoWeighting(gamma=0.1, rho=0.1)
    for seed in range(4):
        samples = random_rows(3, seed=seed, samples=3)
        expected = reference(samples[0] @ samples[1].T) @ samples[2]
        torch.testing.assert_close(update(balancer, samples), expected, rtol=1e-6, atol=1e-9)


def test_absent_tasks_keep_their_share() -> None:
    balancer = MoDo(3, gamma=0.1).double()
    update(balancer, random_rows(3, samples=3))
    before = balancer.shares.clone()
    update(balancer, random_rows(3, seed=1, samples=3), torch.tensor([True, False, True]))
    assert balancer.shares[1] == before[1]
    assert balancer.shares[0] != before[0]
    torch.testing.assert_close(balancer.shares.sum(), before.sum())


def test_one_task_gives_the_gradient_of_the_third_sample() -> None:
    samples = random_rows(1, samples=3)
    torch.testing.assert_close(update(MoDo(1), samples), samples[2, 0])


def test_contract() -> None:
    check_resume(MoDo, samples=3)
    check_finite(MoDo, samples=3)
    check_order(MoDo, samples=3, tolerance=1e-6)  # weights in float32
