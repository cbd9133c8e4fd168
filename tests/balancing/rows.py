"""What the tests of gradient balancers share: degenerate rows, updates as core makes them, rows of a golden step."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.balancing.rows import GradientBalancer
from tests.golden import Case

TASKS = 3


def random_rows(tasks: int = TASKS, seed: int = 0, size: int = 8) -> Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _degenerate() -> dict[str, Tensor]:
    rows = random_rows()
    return {
        "zero row": rows * torch.tensor([[1.0], [0.0], [1.0]]),
        "all zero": rows * 0,
        "identical": rows[:1].repeat(3, 1),
        "opposing": torch.cat([rows[:1], -rows[:1], rows[1:2]]),
        "dependent": torch.cat([rows[:2], rows[:1] + rows[1:2]]),
        "tiny": rows * 1e-6,
        "huge": rows * 1e6,
        "unequal": rows * torch.tensor([[1e-6], [1.0], [1e6]]),
    }


DEGENERATE = _degenerate()


def everyone(tasks: int = TASKS) -> Tensor:
    return torch.ones(tasks, dtype=torch.bool)


def some_losses(tasks: int = TASKS, seed: int = 0) -> Tensor:
    return 0.2 + torch.rand(tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def update(balancer: GradientBalancer, rows: Tensor, losses: Tensor, present: Tensor | None = None) -> Tensor:
    """One update as core makes it, from rows (T, D) and losses (T,) of all tasks; the gradient (D,)."""
    present = everyone(len(rows)) if present is None else present
    gradient = balancer.gradient(rows[present], losses[present], present)
    balancer.after_update(lambda: losses)
    return gradient


def updates(balancer: GradientBalancer, number: int, start: int = 0) -> Tensor:
    """Some updates with rows and losses of their own, every third one without the last task; (number, D)."""
    found = []
    for step in range(start, start + number):
        present = everyone(balancer.num_tasks)
        present[-1] = step % 3 != 1
        rows, losses = (make(balancer.num_tasks, seed=step) for make in (random_rows, some_losses))
        found.append(update(balancer, rows, losses, present))
    return torch.stack(found)


def reloaded(fresh: Any, balancer: GradientBalancer) -> GradientBalancer:
    """A fresh balancer with the state of another one, as a checkpoint brings it."""
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    made: GradientBalancer = fresh().double()
    made.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return made


def balanced_rows(case: Case, step: dict[str, Tensor]) -> Tensor:
    """The rows that the reference has looked at: of the parameters, or of the features, there summed over the batch."""
    return step["J_rep"].sum(1) if case.on_features else step["J"]
