"""Parameters of a likelihood, found by a task with a linear head and by an independent fit of SciPy."""

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


def with_features(rows: int, seed: int = 0) -> tuple[Floats, np.random.Generator]:
    """Two features (N, 2), and the generator that goes on from them."""
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, 2)), random


def linear(parameters: Floats, inputs: Floats) -> Floats:
    """Return outputs (N, K) of parameters (K * 3,): of each output the factors of two features and a constant."""
    table = np.asarray(parameters).reshape(-1, 3)
    return np.asarray(inputs @ table[:, :2].T + table[:, 2])


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


def found_by(task: Task, inputs: Floats, target: Floats) -> Floats:
    """Return the parameters (K * 3,) of the linear head with the least loss."""
    head = fitted_head(task, torch.from_numpy(inputs), torch.from_numpy(target))
    return np.concatenate([head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]], 1).ravel()


def most_likely(negative: Callable[[Floats], float], start: Floats) -> tuple[Floats, Floats]:
    """Return the parameters with the least negative log-likelihood, and their standard errors, of its curvature."""
    found = np.asarray(minimize(negative, start, method="BFGS", options={"gtol": 1e-2}).x)
    size, step = len(found), 1e-3
    moves = np.eye(size) * step

    def curved(i: int, j: int) -> float:
        a, b = moves[i], moves[j]
        around = negative(found + a + b) - negative(found + a - b) - negative(found - a + b) + negative(found - a - b)
        return around / (4 * step**2)

    upper = np.array([[curved(i, j) if j >= i else 0.0 for j in range(size)] for i in range(size)])
    information = upper + np.triu(upper, 1).T
    return found, np.sqrt(np.diag(np.linalg.inv(information)))


def assert_recovered(found: Floats, true: Floats, independent: Floats, errors: Floats) -> None:
    """Within 4 standard errors of the truth, and within 1 % of an independent fit, or a fiftieth of its errors."""
    assert (np.abs(found - true) < 4 * errors).all(), (found, true, errors)
    assert (np.abs(found - independent) <= 0.01 * np.abs(independent) + 0.02 * errors).all(), (found, independent)


def assert_likeliest(found: Floats, true: Floats, negative: Callable[[Floats], float]) -> None:
    """Recovered, by the measure of a fit by SciPy; and the data tells something."""
    assert_recovered(found, true, *most_likely(negative, true))
    assert negative(np.zeros_like(true)) > negative(found) + 10
