"""PCD: torchjd's numbers, the optimality conditions, impossible guarantees, state per task, the primary task's name."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd import aggregation

from mtl_lightning.balancing.gradients.pcd import PCD, priority, shortest
from mtl_lightning.types import ConfigurationError, Likelihood
from tests.balancing.rows import DEGENERATE, everyone, random_rows, reloaded, some_losses, update, updates

LIKELIHOODS = dict.fromkeys("abc", Likelihood(0.5, 0.5, "log_var"))


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_a_run_agrees_with_torchjd(tasks: int, tau: float) -> None:
    balancer, reference = PCD(tasks, tau=tau, beta=0.9).double(), aggregation.PCD(tau=tau, beta=0.9)
    sizes = torch.logspace(-2, 2, tasks, dtype=torch.float64).unsqueeze(1)
    corrected = 0
    for step in range(12):
        rows = random_rows(tasks, seed=step) * sizes
        found, expected = update(balancer, rows, some_losses(tasks)), reference(rows)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
        assert found.norm().item() == pytest.approx(rows[0].norm().item())
        corrected += int(not torch.allclose(found, rows[0]))
    assert corrected > 3


def test_the_first_update_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [-3.0, 4.0]], dtype=torch.float64)  # of length 1 and 5, both scaled to 1
    found = update(PCD(2, tau=0.5), rows, some_losses(2))
    u = rows[1] / 5
    direction = rows[0] + (0.5 + 0.6) * u  # u (g_1 + m u) = 0.5
    assert (u @ direction).item() == pytest.approx(0.5)
    torch.testing.assert_close(found, direction / direction.norm(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_correction_meets_the_optimality_conditions(seed: int) -> None:
    vectors = torch.nn.functional.normalize(random_rows(5, seed, size=6), dim=1)
    wanted = torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    m = shortest(vectors @ vectors.T, wanted)
    spare = vectors @ (m @ vectors) - wanted
    assert m.ge(0).all()
    assert spare.ge(-1e-7).all()
    assert (m * spare).abs().max() < 1e-6


def test_what_is_met_already_is_not_corrected() -> None:
    cosines = torch.eye(3, dtype=torch.float64)
    assert shortest(cosines, torch.tensor([-1.0, 0.0, -3.0]).double()).tolist() == [0, 0, 0]
    assert shortest(cosines[:0, :0], torch.zeros(0).double()).shape == (0,)
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(update(PCD(2), rows, some_losses(2)), rows[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_guarantees_that_exclude_each_other_are_given_up(dtype: torch.dtype) -> None:
    rows = random_rows()
    rows = torch.stack([rows[0], rows[1], -2 * rows[1]]).to(dtype)
    torch.testing.assert_close(update(PCD(3), rows, some_losses()), rows[0])


def test_tasks_with_one_gradient_share_the_correction() -> None:
    first, second = random_rows(2)
    rows = torch.stack([first, -first + 0.5 * second, -first + 0.5 * second])
    weights = priority(rows @ rows.T, torch.ones(3).double(), torch.tensor([True, False, False]), 0.1)
    assert weights[1] > 0
    assert weights[1].item() == pytest.approx(weights[2].item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows(name: str, dtype: torch.dtype) -> None:
    rows, balancer = DEGENERATE[name].to(dtype), PCD(3).to(dtype)
    for _ in range(3):
        gradient = update(balancer, rows, some_losses().to(dtype))
        assert gradient.isfinite().all()
        assert gradient.any() == rows[0].any()
    absent = torch.tensor([False, True, True])
    gradient = update(balancer, rows, some_losses().to(dtype), absent)
    assert gradient.isfinite().all()
    assert gradient.norm() <= 1.01 * rows.norm()


def test_a_primary_gradient_of_zero_makes_no_update_and_another_one_does_not_matter() -> None:
    rows = random_rows()
    rows[0] = 0
    assert not update(PCD(3), rows, some_losses()).any()
    others = random_rows()
    others[2] = 0
    torch.testing.assert_close(
        update(PCD(3), others, some_losses()), update(PCD(2), others[:2], some_losses(2)), rtol=1e-9, atol=1e-9
    )


def test_a_direction_that_cancels_is_no_direction() -> None:
    first = random_rows(1)
    rows = torch.cat([first, -first])
    for dtype in (torch.float64, torch.float32):
        assert not update(PCD(2, tau=0.0), rows.to(dtype), some_losses(2)).any()


def test_without_the_primary_task_all_others_count_alike() -> None:
    balancer = PCD(3, eps=1e-30).double()
    rows = random_rows() * torch.tensor([[1.0], [10.0], [0.1]])
    present = torch.tensor([False, True, True])
    found = update(balancer, rows, some_losses(), present)
    norms = rows[1:].norm(dim=1)
    expected = norms.mean() * (rows[1:] / norms.unsqueeze(1)).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_primary_task_by_name_or_index() -> None:
    rows, losses = random_rows(), some_losses()
    named = PCD(3, primary="c")
    with pytest.raises(ConfigurationError, match="expected `bind` to tell which task 'c' is"):
        update(named, rows, losses)
    named.bind(LIKELIHOODS)
    expected = update(PCD(3, primary=2), rows, losses)
    assert torch.equal(update(named, rows, losses), expected)
    assert expected.norm().item() == pytest.approx(rows[2].norm().item())
    with pytest.raises(ConfigurationError, match=r"one of the tasks \['a', 'b', 'c'\], found 'd'"):
        PCD(3, primary="d").bind(LIKELIHOODS)


def test_absent_tasks_keep_their_averages() -> None:
    balancer = PCD(3, primary=1).double()
    updates(balancer, 3)
    before = balancer.square_norms.clone(), balancer.updates.clone()
    update(balancer, random_rows(seed=7), some_losses(), torch.tensor([False, True, True]))
    assert balancer.square_norms[0] == before[0][0]
    assert (balancer.updates - before[1]).tolist() == [0, 1, 1]
    assert balancer.square_norms[1:].ne(before[0][1:]).all()


def test_nothing_is_kept_before_the_update_is_made() -> None:
    balancer = PCD(3)
    for _ in range(2):
        balancer.gradient(random_rows(), some_losses(), everyone())
    assert not balancer.updates.any()
    balancer.after_update(lambda: torch.zeros(0))
    balancer.after_update(lambda: torch.zeros(0))
    assert balancer.updates.tolist() == [1, 1, 1]


def test_an_absent_task_is_left_out() -> None:
    rows, losses, present = random_rows(4), some_losses(4), torch.tensor([True, False, True, True])
    expected = update(PCD(3, primary=1), rows[present], losses[present])
    torch.testing.assert_close(update(PCD(4, primary=2), rows, losses, present), expected, rtol=1e-9, atol=1e-9)


def test_the_tasks_order_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    plain, permuted = PCD(4, primary=0, tau=0.3).double(), PCD(4, primary=1, tau=0.3).double()
    for step in range(6):
        rows, losses = random_rows(4, seed=step), some_losses(4)
        expected, found = update(plain, rows, losses), update(permuted, rows[order], losses[order])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_resuming_goes_on_as_if_nothing_had_happened() -> None:
    whole, first = PCD(3).double(), PCD(3).double()
    for balancer in (whole, first):
        updates(balancer, 4)
    second = reloaded(partial(PCD, 3), first)
    assert torch.equal(updates(second, 4, start=4), updates(whole, 4, start=4))


def test_one_task_keeps_its_gradient() -> None:
    rows: Tensor = random_rows(1)
    torch.testing.assert_close(update(PCD(1), rows, some_losses(1)), rows[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primary": 3}, "its index from 0 to 2, found 3"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PCD(3, **options)
