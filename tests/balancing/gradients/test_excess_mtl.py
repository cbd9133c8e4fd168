"""ExcessMTL: by hand, LibMTL's recorded numbers, torchjd's class, absent tasks, reloads."""

from __future__ import annotations

import math

import pytest
import torch
from torchjd.aggregation import ExcessMTL as Reference

from mtl_lightning.balancing.gradients.excess_mtl import ExcessMTL
from tests.balancing.matrices import DOUBLE, all_present, check_finite, check_order, check_resume, random_rows, update
from tests.golden import Case, cases

ON_PARAMETERS = [case for case in cases("ExcessMTL") if not case.on_features]  # on features the reference gives nan


def test_weights_by_hand() -> None:
    balancer = ExcessMTL(2, step_size=1.0).double()
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    torch.testing.assert_close(update(balancer, rows), torch.tensor([0.5, 0.5], dtype=DOUBLE))
    found = update(balancer, torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=DOUBLE))
    first, second = 1 / math.sqrt(2), 4 / math.sqrt(5)  # excess over that of the first update, which was 1
    share = math.exp(second) / (math.exp(first) + math.exp(second))
    torch.testing.assert_close(found, torch.tensor([1 - share, 2 * share], dtype=DOUBLE), rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", ON_PARAMETERS, ids=str)
def test_the_reference(case: Case) -> None:
    balancer = ExcessMTL(case.tasks, step_size=case.hyper["robust_step_size"], rescale="sum").double()
    for step in case.steps:
        found = balancer.gradient(step["J"], step["losses"], all_present(case.tasks))
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-9, atol=1e-11)
        weights = balancer.head_weights(all_present(case.tasks), case.tasks)
        torch.testing.assert_close(weights, step["head_multiplier"], rtol=1e-9, atol=0)
        torch.testing.assert_close(balancer.squares, step["state_after"]["grad_sum"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(balancer.baseline, step["state_after"]["initial_w"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("warmup", [1, 3])
def test_agrees_with_torchjd(warmup: int) -> None:
    balancer = ExcessMTL(3, step_size=0.5, warmup_updates=warmup).double()
    reference = Reference(robust_step_size=0.5, n_warmup_steps=warmup)
    for seed in range(6):
        rows = random_rows(3, seed=seed)
        torch.testing.assert_close(update(balancer, rows), reference(rows), rtol=1e-6, atol=1e-9)


def test_a_weight_that_became_very_small_comes_back() -> None:
    balancer = ExcessMTL(2, step_size=300.0)
    weak, strong = torch.tensor([[0.01, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.01]])
    update(balancer, torch.ones(2, 2))
    update(balancer, weak)
    assert balancer.head_weights(all_present(2), 2)[0] < 1e-45  # float32 knows no smaller one
    for _ in range(5):
        update(balancer, strong)
    assert balancer.head_weights(all_present(2), 2)[0] > 0.99


def test_an_absent_task_stays_as_it_was() -> None:
    balancer = ExcessMTL(3, step_size=1.0).double()
    for seed in range(2):
        update(balancer, random_rows(3, seed=seed))
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    update(balancer, random_rows(3, seed=2), torch.tensor([True, False, True]))
    for name, value in balancer.state_dict().items():
        assert torch.equal(value[1], before[name][1])
    assert not torch.equal(balancer.log_weights[0], before["log_weights"][0])
    torch.testing.assert_close(balancer.log_weights.exp().sum().item(), 1.0, rtol=1e-6, atol=0)


def test_a_task_that_joins_late_measures_first() -> None:
    balancer = ExcessMTL(3, step_size=1.0).double()
    for seed in range(3):
        update(balancer, random_rows(3, seed=seed), torch.tensor([True, True, False]))
    assert balancer.updates.tolist() == [3, 3, 0]
    assert balancer.baseline[2] == 0
    update(balancer, random_rows(3, seed=3))
    assert balancer.baseline[2] > 0
    assert balancer.head_weights(all_present(3), 3)[2] > 0.05


def test_one_task_gives_its_own_gradient() -> None:
    rows = random_rows(1)
    torch.testing.assert_close(update(ExcessMTL(1), rows), rows[0])


def test_the_paper_weights_heads() -> None:
    assert ExcessMTL(2).weight_heads
    assert not ExcessMTL(2, weight_heads=False).weight_heads


def test_contract() -> None:
    check_resume(ExcessMTL)
    check_finite(ExcessMTL)
    check_order(ExcessMTL, tolerance=1e-6)  # weights in float32
