"""Weights that are chosen once and stay."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.types import ConfigurationError, Likelihood, state_dtype


class FixedWeighting(Balancer):
    """Sum of the present tasks' losses, each times a constant: ``sum_k w_k * L_k``.

    L_k is task k's mean loss over labelled elements. Weights are not normalised, nor rescaled where a task is absent.

    Args:
        num_tasks: T, the number of tasks.
        weights: w_k in the tasks' order, or by the tasks' names, which :meth:`bind` makes known; 1 each by default.

    Raises:
        ConfigurationError: for another number of weights, and for weights that are negative or not finite.
    """

    affine = True
    fixed_weights: Tensor

    def __init__(self, num_tasks: int, *, weights: list[float] | dict[str, float] | None = None) -> None:
        super().__init__(num_tasks)
        self._by_name = dict(weights) if isinstance(weights, dict) else None
        values = [1.0] * num_tasks if weights is None or isinstance(weights, dict) else list(weights)
        if len(values) != num_tasks:
            raise ConfigurationError(
                f"FixedWeighting: expected one weight for each of {num_tasks} tasks, found {len(values)}: {values}."
            )
        dtype = state_dtype()
        self.register_buffer("fixed_weights", torch.tensor(values, dtype=dtype))

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Look up the weights by the tasks' names.

        Raises:
            ConfigurationError: if a name is no task, or a task has no weight.
        """
        super().bind(likelihoods)
        if self._by_name is None:
            return
        names = list(likelihoods)
        unknown, missing = sorted(self._by_name.keys() - set(names)), sorted(set(names) - self._by_name.keys())
        if unknown or missing:
            raise ConfigurationError(
                f"FixedWeighting: expected one weight for each of the tasks {names}, found weights for {unknown}, "
                f"which are no tasks, and none for {missing}."
            )
        self.fixed_weights.copy_(torch.tensor([self._by_name[n] for n in names], dtype=self.fixed_weights.dtype))
        self._by_name = None

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to their weighted sum ().

        Raises:
            ConfigurationError: if weights by name wait for :meth:`bind`.
        """
        if self._by_name is not None:
            raise ConfigurationError(
                f"FixedWeighting: expected `bind` to tell which tasks {list(self._by_name)} are, found it not called. "
                "Call it, or give the weights as a list."
            )
        return (self.fixed_weights * torch.where(present, losses, 0.0)).sum()
