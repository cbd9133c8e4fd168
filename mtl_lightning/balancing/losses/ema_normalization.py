"""Losses divided by their own running mean: the baseline without anything to learn or to tune."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.types import state_dtype


class EMANormalization(Balancer):
    r"""Sum of the losses, each divided by its exponential moving average (EMA).

    .. math::
        \sum_k \frac{L_k}{m_k + \text{eps}}, \qquad
        m_k = \frac{(1 - \beta) \sum_{i \le n_k} \beta^{n_k - i} |L_k^{(i)}|}{1 - \beta^{n_k}}

    over the tasks k that are present, with task k's mean loss over labelled elements :math:`L_k`, of which
    :math:`L_k^{(i)}` is the one in the i-th of the :math:`n_k` updates that the task was present in, this one included.
    Averages are constants to the gradient. The denominator is that of Adam, so that the first average is the first
    loss. There is no paper to it; every term stays near 1, and a loss's units cancel.

    A task's average is its own: an update that it is absent from, or that is skipped, leaves it as it is. The average
    is of absolute values, so that a loss that may change its sign keeps its direction.

    Args:
        num_tasks: T, the number of tasks.
        beta: decay of the average, from 0 (each loss is divided by itself) to just below 1: about 1 / (1 - beta)
            updates are averaged.
        eps: what is added to each average, which keeps the weight of a loss of 0 finite.

    Attributes:
        average: (T,) each task's numerator, without the denominator.
        mass: (T,) the denominator; 0 before the task's first update.

    Raises:
        ConfigurationError: for numbers out of range.
    """

    affine = False
    tensors_only = True
    scale = "none"
    average: Tensor
    mass: Tensor
    last_losses: Tensor
    here: Tensor

    def __init__(self, num_tasks: int, *, beta: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(num_tasks)
        self.beta, self.eps = float(beta), float(eps)
        dtype = state_dtype()
        for name in ("average", "mass"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=dtype))
        self.register_buffer("last_losses", torch.zeros(num_tasks, dtype=dtype), persistent=False)
        self.register_buffer("here", torch.zeros(num_tasks, dtype=torch.bool), persistent=False)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the objective (), and remember both till the update is made."""
        losses = torch.where(present, losses, 0.0)
        with torch.no_grad():
            self.last_losses.copy_(losses)
            self.here.copy_(present)
            average, mass = self._next(losses.abs())
            weights = torch.where(present, 1 / (average / mass + self.eps), 0.0)
        return (weights * losses).sum()

    @torch.no_grad()
    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Keep the averages that the update was made with."""
        super().after_update(losses)
        moved = self.here & self.last_losses.isfinite()
        for state, new in zip((self.average, self.mass), self._next(self.last_losses.abs()), strict=True):
            state.copy_(torch.where(moved, new, state))
        self.here.zero_()

    def _next(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the averages (T,) with the losses' sizes (T,) taken in, and their denominators (T,)."""
        return self.beta * self.average + (1 - self.beta) * sizes, self.beta * self.mass + (1 - self.beta)
