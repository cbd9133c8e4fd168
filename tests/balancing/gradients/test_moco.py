"""MoCo: the paper's recursion by hand, LibMTL's recorded numbers, absent tasks, reloads."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from mtl_lightning.balancing.gradients.moco import MoCo
from mtl_lightning.types import ConfigurationError
from tests.balancing.matrices import (
    DOUBLE,
    all_present,
    check_finite,
    check_order,
    check_resume,
    random_rows,
    update,
)
from tests.golden import Case, cases


def test_two_updates_by_hand() -> None:
    balancer = MoCo(2, beta=0.5, beta_sigma=0.0, gamma=0.1, gamma_sigma=1.0).double()
    rows = torch.tensor([[2.0, 0.0], [0.0, 4.0]], dtype=DOUBLE)
    # tracked (1, 0), (0, 2); slope = (0.5, 2); shares (0.45, 0.3) + 0.125 each
    torch.testing.assert_close(update(balancer, rows), torch.tensor([0.575, 0.85], dtype=DOUBLE))
    # tracked (1.5, 0), (0, 3); slope = (1.29375, 3.825); step 0.05; shares (0.5103125, 0.23375) + 0.12796875 each
    torch.testing.assert_close(update(balancer, rows), torch.tensor([0.957421875, 1.08515625], dtype=DOUBLE))


@pytest.mark.parametrize("case", cases("MoCo"), ids=str)
def test_the_reference(case: Case) -> None:
    settings = {key.removeprefix("MoCo_"): value for key, value in case.hyper.items()}
    balancer = MoCo(case.tasks, variant="libmtl", **settings).double()
    for step in case.steps:
        found = balancer.gradient(step["J"], step["losses"], all_present(case.tasks))
        torch.testing.assert_close(found, step["grad_shared"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(balancer.tracked, step["state_after"]["y"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(balancer.shares, step["state_after"]["lambd"], rtol=0, atol=1e-7)  # from float32
        assert bool((step["head_multiplier"] == 1).all())


def test_shares_go_to_the_smallest_common_gradient() -> None:
    balancer = MoCo(2, beta=1.0, beta_sigma=0.0, gamma=0.05, gamma_sigma=0.0).double()
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=DOUBLE)
    for _ in range(300):
        found = update(balancer, rows)
    torch.testing.assert_close(found, torch.tensor([0.8, 0.4], dtype=DOUBLE))  # min ||w1 g1 + w2 g2||: w = (4/5, 1/5)


@pytest.mark.parametrize("variant", ["paper", "libmtl"])
def test_an_absent_task_stays_as_it_was(variant: Any) -> None:
    balancer = MoCo(3, variant=variant).double()
    update(balancer, random_rows(3))
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    update(balancer, random_rows(3, seed=1), torch.tensor([True, False, True]))
    for name, value in balancer.state_dict().items():
        assert torch.equal(value[1], before[name][1])
        assert not torch.equal(value[0], before[name][0])
    torch.testing.assert_close(balancer.shares.sum(), torch.tensor(1.0, dtype=DOUBLE), rtol=0, atol=1e-7)


def test_one_task_gives_its_tracked_gradient() -> None:
    rows = random_rows(1)
    torch.testing.assert_close(update(MoCo(1, beta=0.25), rows), 0.25 * rows[0])


def test_weights_shift_with_the_tasks_that_are_present() -> None:
    rows = random_rows(3)
    alone = update(MoCo(3, beta=1.0), rows, torch.tensor([False, True, False]))
    torch.testing.assert_close(alone, rows[1])


@pytest.mark.parametrize("variant", ["paper", "libmtl"])
def test_contract(variant: Any) -> None:
    make = functools.partial(MoCo, variant=variant)
    check_resume(make)
    check_finite(make)
    check_order(make)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="`variant` to be 'paper' or 'libmtl', found 'other'"):
        MoCo(2, variant="other")  # type: ignore[arg-type]  # on purpose
