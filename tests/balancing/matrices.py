"""Rows to balance, and what every balancer of rows is asked."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch import Tensor

from mtl_lightning.balancing.rows import GradientBalancer

DOUBLE = torch.float64
Make = Callable[[int], GradientBalancer]


def random_rows(tasks: int, width: int = 6, seed: int = 0, samples: int | None = None) -> Tensor:
    """Rows (T, D), or (S, T, D), in float64, of which some pull against each other."""
    shape = (tasks, width) if samples is None else (samples, tasks, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def all_present(tasks: int) -> Tensor:
    return torch.ones(tasks, dtype=torch.bool)


def update(balancer: GradientBalancer, rows: Tensor, present: Tensor | None = None) -> Tensor:
    """One update as core makes it: rows (T, D) of all tasks, of which the present ones are handed on."""
    present = all_present(balancer.num_tasks) if present is None else present
    losses = torch.linspace(0.5, 2.0, balancer.num_tasks, dtype=rows.dtype)
    found = balancer.gradient(rows[..., present, :], losses[present], present)
    balancer.after_update(lambda: losses)
    return found


def degenerate(tasks: int = 3, samples: int | None = None) -> dict[str, Tensor]:
    """Rows of which methods divide by zero: name -> rows."""
    plain = random_rows(tasks, samples=samples)
    zero, same, opposed = plain.clone(), plain.clone(), plain.clone()
    zero[..., 1, :] = 0
    same[..., 1, :] = same[..., 0, :]
    opposed[..., 1, :] = -opposed[..., 0, :]
    return {
        "a zero row": zero,
        "all zero": torch.zeros_like(plain),
        "identical": same,
        "opposed": opposed,
        "tiny": 1e-6 * plain,
        "huge": 1e6 * plain,
    }


def saved_and_loaded(balancer: GradientBalancer, fresh: GradientBalancer) -> GradientBalancer:
    """Return ``fresh`` with the state of ``balancer``, through a file, strictly and as plain data."""
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def check_resume(make: Make, tasks: int = 3, samples: int | None = None) -> None:
    """k updates, a checkpoint and k more are 2k updates, absent tasks included."""
    present = [all_present(tasks), torch.arange(tasks) != 1, all_present(tasks), torch.arange(tasks) != 0]
    straight = make(tasks)
    expected = [update(straight, random_rows(tasks, seed=i, samples=samples), p) for i, p in enumerate(present)]
    first = make(tasks)
    found = [update(first, random_rows(tasks, seed=i, samples=samples), present[i]) for i in (0, 1)]
    second = saved_and_loaded(first, make(tasks))
    found += [update(second, random_rows(tasks, seed=i, samples=samples), present[i]) for i in (2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def check_finite(make: Make, tasks: int = 3, samples: int | None = None) -> None:
    """Three updates on each kind of degenerate rows give numbers."""
    for name, rows in degenerate(tasks, samples).items():
        balancer = make(tasks)
        for _ in range(3):
            found = update(balancer, rows)
            assert found.shape == rows.shape[-1:], name
            assert found.isfinite().all(), name
        state = [value for value in balancer.state_dict().values() if isinstance(value, Tensor)]
        assert all(value.isfinite().all() for value in state), name


def check_order(make: Make, tasks: int = 4, samples: int | None = None, tolerance: float = 1e-9) -> None:
    """Permuted tasks give the same updates."""
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(5))
    plain = make(tasks)
    permuted = make(tasks)
    losses = torch.linspace(0.5, 2.0, tasks, dtype=DOUBLE)
    for step in range(3):
        rows = random_rows(tasks, seed=step, samples=samples)
        expected = plain.gradient(rows, losses, all_present(tasks))
        found = permuted.gradient(rows[..., order, :], losses[order], all_present(tasks))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
