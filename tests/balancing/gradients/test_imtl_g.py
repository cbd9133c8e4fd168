"""IMTL-G: equal projections, torchjd's numbers, the paper's closed form, gradients that depend on each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd import aggregation

from mtl_lightning.balancing.gradients.imtl_g import IMTLG
from mtl_lightning.types import ConfigurationError
from tests.balancing.rows import DEGENERATE, everyone, random_rows, some_losses, update


def projections(gradient: Tensor, rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1) @ gradient


def weights_of(rows: Tensor, **options: Any) -> Tensor:
    tasks = len(rows)
    return IMTLG(tasks, **options).task_weights(rows @ rows.T, some_losses(tasks), everyone(tasks))


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_projections_are_equal_and_weights_sum_to_1(tasks: int, seed: int) -> None:
    rows = random_rows(tasks, seed) * torch.logspace(-3, 3, tasks, dtype=torch.float64).unsqueeze(1)
    weights = weights_of(rows)
    found = projections(weights @ rows, rows)
    torch.testing.assert_close(found, found[:1].expand(tasks), rtol=1e-9, atol=1e-9)
    assert weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_papers_closed_form_and_torchjd(seed: int) -> None:
    rows = random_rows(4, seed)
    units = torch.nn.functional.normalize(rows, dim=1)
    differences, unit_differences = rows[:1] - rows[1:], units[:1] - units[1:]
    others = rows[0] @ unit_differences.T @ torch.linalg.inv(differences @ unit_differences.T)
    expected = torch.cat([1 - others.sum().reshape(1), others])
    torch.testing.assert_close(weights_of(rows), expected, rtol=1e-9, atol=1e-9)
    reference = aggregation.IMTLG()(rows)
    torch.testing.assert_close(update(IMTLG(4), rows, some_losses(4)), reference, rtol=1e-6, atol=1e-6)


def test_two_tasks_by_hand() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])  # the longer gradient counts half as much
    torch.testing.assert_close(weights_of(rows), torch.tensor([1 / 3, 2 / 3]))


@pytest.mark.parametrize("normalization", ["sum", "absolute"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows(name: str, dtype: torch.dtype, normalization: Any) -> None:
    rows = DEGENERATE[name].to(dtype)
    gradient = update(IMTLG(3, normalization=normalization), rows, some_losses().to(dtype))
    assert gradient.isfinite().all()
    assert gradient.any() == rows.any()
    assert gradient.norm() <= 1e3 * rows.norm()


def test_a_gradient_of_zero_is_left_out() -> None:
    rows = random_rows()
    rows[1] = 0
    kept = [0, 2]
    found = weights_of(rows)
    assert found[1] == 0
    torch.testing.assert_close(found[kept], weights_of(rows[kept]), rtol=1e-9, atol=1e-9)


def test_dependent_gradients_get_equal_projections_where_these_are_possible() -> None:
    rows = random_rows(2)
    twice = rows[[0, 0, 1, 1]] * torch.tensor([[1.0], [3.0], [1.0], [0.5]])
    found = projections(weights_of(twice) @ twice, twice)
    torch.testing.assert_close(found, found[:1].expand(4), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weights_of(rows[[0, 0]]), torch.tensor([0.5, 0.5]).double())


def test_the_papers_sum_may_be_negative_and_the_absolute_one_never_climbs() -> None:
    generator = torch.Generator().manual_seed(0)
    climbs = 0
    for _ in range(200):
        sizes = torch.tensor([[1.0], [10.0], [100.0]], dtype=torch.float64)
        rows = torch.randn(3, 3, generator=generator, dtype=torch.float64) * sizes
        by_sum, absolute = (weights_of(rows), weights_of(rows, normalization="absolute"))
        paper = projections(by_sum @ rows, rows)
        climbs += int(paper[0] < 0)
        assert projections(absolute @ rows, rows).gt(0).all()
        torch.testing.assert_close(absolute, by_sum / by_sum.abs().sum() * paper[0].sign(), rtol=1e-9, atol=1e-9)
    assert climbs > 5


def test_a_sum_that_vanishes_is_not_divided_by() -> None:
    # the third gradient's coefficient y is negative; of this length, its weight is minus the sum of the others'
    units = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.8, 0.6, 0.5]], dtype=torch.float64)
    units = torch.nn.functional.normalize(units, dim=1)
    y = torch.linalg.solve(units @ units.T, torch.ones(3, dtype=torch.float64))
    assert y[2] < 0
    rows = torch.cat([units[:2], units[2:] * -y[2] / (y[0] + y[1])])
    weights = weights_of(rows)
    assert weights.abs().sum().item() == pytest.approx(1)
    found = projections(weights @ rows, rows)
    assert found[0] > 0
    torch.testing.assert_close(found, found[:1].expand(3), rtol=1e-9, atol=1e-9)


def test_one_task_keeps_its_gradient() -> None:
    rows = random_rows(1)
    torch.testing.assert_close(update(IMTLG(1), rows, some_losses(1)), rows[0])


def test_an_absent_task_is_left_out_and_the_order_does_not_matter() -> None:
    rows, losses, present = random_rows(4), some_losses(4), torch.tensor([True, False, True, True])
    expected = update(IMTLG(3), rows[present], losses[present])
    order = torch.tensor([3, 1, 0, 2])
    found = update(IMTLG(4), rows[order], losses[order], present[order])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_an_unknown_normalization() -> None:
    with pytest.raises(ConfigurationError, match="IMTLG: expected `normalization` to be 'sum' or 'absolute', found 'l"):
        IMTLG(2, normalization="l2")  # type: ignore[arg-type]  # wrong on purpose


def test_opposed_gradients_cancel() -> None:
    """Every Pareto-stationary point of two tasks has such gradients."""
    rows = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    both, balancer = torch.ones(2, dtype=torch.bool), IMTLG(2)
    weights = balancer.task_weights(rows @ rows.T, torch.ones(2, dtype=torch.float64), both)
    torch.testing.assert_close(weights, torch.tensor([2.0, 1.0], dtype=torch.float64) / 3)
    torch.testing.assert_close(balancer.gradient(rows, torch.ones(2), both), torch.zeros(2, dtype=torch.float64))
