"""Fits of a task with a linear head, and independent ones of the same likelihood, to see that parameters are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]  # it ships no types
from torch import Tensor, nn

from mtl_lightning.tasks import Task

Floats = NDArray[np.float64]


def fitted_head(task: Task, inputs: Tensor, target: Tensor) -> nn.Linear:
    """Return the linear head with the least loss of a task, whose own parameters are fitted along, in float64."""
    task.double()
    head = nn.Linear(inputs.shape[1], task.head_size).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    search: Any = torch.optim.LBFGS(
        [*head.parameters(), *task.parameters()],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = task.loss(task.complete(head(inputs)), target) / len(inputs)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    search.step(closure)
    return head


def most_likely(negative: Callable[[Floats], float], start: Floats) -> tuple[Floats, Floats]:
    """Return the parameters with the least negative log-likelihood, by SciPy, and their standard errors.

    The errors are those of the observed information, by differences.
    """
    rows = minimize(negative, start, method="BFGS", options={"gtol": 1e-3})
    found = np.asarray(rows.x)
    step = 1e-3
    size = len(found)
    information = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            a, b = np.eye(size)[i] * step, np.eye(size)[j] * step
            ends = negative(found + a + b) - negative(found + a - b) - negative(found - a + b) + negative(found - a - b)
            information[i, j] = ends / (4 * step**2)
    return found, np.sqrt(np.diag(np.linalg.inv(information)))


def assert_recovered(found: Floats, true: Floats, independent: Floats, errors: Floats) -> None:
    """Within 4 standard errors of the truth, and within 1 % of the independent fit."""
    assert (np.abs(found - true) < 4 * errors).all(), (found, true, errors)
    np.testing.assert_allclose(found, independent, rtol=0.01, atol=0.01 * np.abs(independent).max() * 1e-2)
