"""The small solvers of gradient balancers, against the conditions that make their answers optimal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing.tools.solvers import correlations, definite, fair, filled, nonnegative
from tests.balancing.rows import DEGENERATE, random_rows


def gramian(rows: Tensor) -> Tensor:
    return rows @ rows.T


def crowded(tasks: int, size: int, seed: int = 0) -> Tensor:
    """Cosines of rows, of which many pull against each other."""
    return correlations(gramian(random_rows(tasks, seed=seed, size=size)))[1]


# ------------------------------------------------------------------------------------------------------------- cosines
def test_rows_are_split_into_lengths_and_cosines() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 2e-7], [0.0, 0.0]], dtype=torch.float64)
    lengths, cosines = correlations(gramian(rows))
    torch.testing.assert_close(lengths, torch.tensor([5.0, 2e-7, 1.0], dtype=torch.float64))
    torch.testing.assert_close(
        cosines, torch.tensor([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]], dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_as_little_as_possible_is_added_to_the_diagonal() -> None:
    plain = crowded(4, 9)
    torch.testing.assert_close(definite(plain) - plain, 1e-10 * torch.eye(4, dtype=torch.float64), rtol=1e-5, atol=0)
    indefinite = torch.tensor([[1.0, 1 + 3e-7], [1 + 3e-7, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(definite(indefinite).diagonal() - 1, torch.full((2,), 1e-6, dtype=torch.float64))


def test_a_nan_ends_as_well() -> None:
    assert definite(torch.full((2, 2), torch.nan, dtype=torch.float64)).isnan().all()


def test_unknown_weights_are_the_mean_of_the_known() -> None:
    weights = torch.tensor([1.0, 7.0, 3.0])
    assert filled(weights, torch.tensor([True, False, True])).tolist() == [1.0, 2.0, 3.0]
    assert filled(weights, torch.zeros(3, dtype=torch.bool)).tolist() == [1.0, 1.0, 1.0]


# ------------------------------------------------------------------------------------------------- nonnegative programs
@pytest.mark.parametrize(("tasks", "size"), [(1, 3), (2, 8), (8, 50), (8, 6), (30, 200), (40, 20), (64, 500)])
def test_nonnegative_solutions_are_optimal(tasks: int, size: int) -> None:
    matrix = definite(crowded(tasks, size))
    linear = torch.cat([-matrix, random_rows(5, size=tasks) @ matrix])
    found, positive = nonnegative(matrix, linear)
    slope = found @ matrix - linear
    assert (found >= 0).all()
    assert (slope >= -1e-9).all()
    assert (found * slope).abs().max() < 1e-9
    assert torch.equal(found > 0, positive & (found > 0))


def test_nonnegative_solution_by_hand() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    linear = torch.tensor([[3.0, 3.0], [2.0, -5.0], [-1.0, -1.0]], dtype=torch.float64)
    found, positive = nonnegative(matrix, linear)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert positive.tolist() == [[True, True], [True, False], [False, False]]


@pytest.mark.parametrize("guess", [True, False])
def test_any_guess_leads_to_the_same(guess: bool) -> None:
    matrix = definite(crowded(6, 12))
    found, positive = nonnegative(matrix, -matrix, torch.full((6, 6), guess))
    expected = nonnegative(matrix, -matrix)
    torch.testing.assert_close((found, positive), expected)


def test_nonnegative_agrees_with_quadprog() -> None:
    qpsolvers = pytest.importorskip("qpsolvers")
    pytest.importorskip("quadprog")
    matrix = definite(crowded(12, 40))
    found, _ = nonnegative(matrix, -matrix)
    for row, linear in zip(found, matrix, strict=True):
        other = qpsolvers.solve_qp(
            matrix.numpy(), linear.numpy(), lb=torch.zeros(12, dtype=torch.float64).numpy(), solver="quadprog"
        )
        torch.testing.assert_close(row, torch.from_numpy(other), rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------------------ fair allocation
@pytest.mark.parametrize("power", [0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("tasks", "size"), [(1, 3), (2, 8), (8, 100), (40, 200)])
def test_fair_shares_solve_the_equation(tasks: int, size: int, power: float) -> None:
    cosines = crowded(tasks, size)
    gains = random_rows(1, seed=1, size=tasks)[0]
    y = fair(cosines, gains, power)
    assert (y > 0).all()
    torch.testing.assert_close(cosines @ y, torch.exp(gains) * y**-power, rtol=1e-6, atol=0)


def test_a_badly_conditioned_equation_is_solved_as_well() -> None:
    rows = random_rows(5, size=30)
    cosines = correlations(gramian(rows - 0.99 * rows.mean(0)))[1]
    y = fair(cosines, torch.zeros(5, dtype=torch.float64), 1.0)
    assert y.max() > 20
    torch.testing.assert_close(cosines @ y, 1 / y, rtol=1e-7, atol=0)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", DEGENERATE)
def test_fair_shares_are_finite_even_where_there_are_none(name: str, power: float) -> None:
    lengths, cosines = correlations(gramian(DEGENERATE[name]))
    y = fair(cosines, (power - 1) * lengths.log(), power)
    assert y.isfinite().all()
    assert (y > 0).all()
