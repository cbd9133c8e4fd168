"""MetaBalance: by hand, each parameter by itself, the primary task by name and absent, reloads."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from mtl_lightning.balancing.gradients.metabalance import MetaBalance
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.matrices import DOUBLE, check_finite, check_resume, random_rows, update

ROWS = torch.tensor([[3.0, 4.0], [0.0, 10.0], [1.0, 0.0]], dtype=DOUBLE)  # of lengths 5, 10, 1


def test_one_update_by_hand() -> None:
    found = update(MetaBalance(3, relax=0.5).double(), ROWS)
    # factors 1, 0.5 * 5/10 + 0.5, 0.5 * 5/1 + 0.5
    torch.testing.assert_close(found, torch.tensor([3 + 3.0, 4 + 7.5], dtype=DOUBLE))


def test_moving_averages_by_hand() -> None:
    balancer = MetaBalance(2, relax=1.0, beta=0.9).double()
    update(balancer, torch.tensor([[1.0], [2.0]], dtype=DOUBLE))
    found = update(balancer, torch.tensor([[3.0], [2.0]], dtype=DOUBLE))
    torch.testing.assert_close(found.item(), 3 + 2 * (0.9 * 1 + 3) / (0.9 * 2 + 2))


@pytest.mark.parametrize(
    ("strategy", "factors"), [("both", [1, 0.5, 5]), ("reduce", [1, 0.5, 1]), ("enlarge", [1, 1, 5])]
)
def test_strategies(strategy: Any, factors: list[float]) -> None:
    found = update(MetaBalance(3, relax=1.0, strategy=strategy).double(), ROWS)
    torch.testing.assert_close(found, torch.tensor(factors, dtype=DOUBLE) @ ROWS)


def test_each_shared_parameter_by_itself() -> None:
    rows = random_rows(3, width=7)
    balancer = MetaBalance(3).double()
    balancer.sizes = (3, 4)
    parts = [update(MetaBalance(3).double(), piece) for piece in torch.split(rows, [3, 4], dim=1)]
    torch.testing.assert_close(update(balancer, rows), torch.cat(parts))
    assert balancer.norms.shape == (3, 2)


@pytest.mark.parametrize("primary", [2, "c"])
def test_another_primary_task(primary: str | int) -> None:
    balancer = MetaBalance(3, relax=1.0, primary=primary).double()
    balancer.bind(dict.fromkeys("abc", Likelihood(0.5, 0.5, "log_var")))
    torch.testing.assert_close(update(balancer, ROWS), torch.tensor([0.2, 0.1, 1.0], dtype=DOUBLE) @ ROWS)


def test_while_the_primary_task_is_absent_the_others_are_scaled_as_before() -> None:
    balancer = MetaBalance(3, relax=1.0).double()
    update(balancer, ROWS)
    found = update(balancer, ROWS, torch.tensor([False, True, True]))
    torch.testing.assert_close(found, torch.tensor([5.0, 5.0], dtype=DOUBLE))
    assert balancer.updates.tolist() == [1, 2, 2]


def test_before_the_primary_task_was_seen_nothing_is_scaled() -> None:
    found = update(MetaBalance(3), ROWS, torch.tensor([False, True, True]))
    torch.testing.assert_close(found, ROWS[1:].sum(0))


def test_one_task_gives_its_own_gradient() -> None:
    rows = random_rows(1)
    torch.testing.assert_close(update(MetaBalance(1), rows), rows[0])


@pytest.mark.parametrize("primary", [0, 2])
def test_contract(primary: int) -> None:
    make = functools.partial(MetaBalance, primary=primary)
    check_resume(make)
    check_finite(make)


def test_the_other_tasks_order_does_not_matter() -> None:
    rows, order = random_rows(4), torch.tensor([2, 0, 3, 1])
    expected = update(MetaBalance(4, primary=0), rows)
    torch.testing.assert_close(update(MetaBalance(4, primary=1), rows[order]), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "a"}, "`strategy` to be one of .*, found 'a'"),
        ({"primary": 2}, "`primary` to be .* from 0 to 1, found 2"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"MetaBalance: expected {message}"):
        MetaBalance(2, **settings)
