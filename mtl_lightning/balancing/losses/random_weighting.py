"""Loss weights drawn anew for every update: the baseline that a balancing method has to beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator
from mtl_lightning.types import ConfigurationError


class RandomWeighting(Balancer):
    r"""Random loss weighting (RLW) of `Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
    Learning <https://arxiv.org/abs/2111.10603>`_ (Lin, Ye, Zhang and Tsang, 2022), algorithm 2.

    .. math:: \sum_k w_k L_k, \qquad w = \mathrm{softmax}(z), \qquad z_k \sim \mathcal{N}(0, 1)

    with a new z for every update, the same on all processes. :math:`L_k` is task k's mean loss over labelled elements.
    The paper tries several distributions; this is the one it uses by default, and LibMTL's.

    The softmax is over all T tasks: a task's weight does not depend on who else is present, and where tasks are absent
    the weights are not rescaled, as with :class:`~mtl_lightning.balancing.FixedWeighting`.

    Args:
        num_tasks: T, the number of tasks.
        total: what the weights of all tasks add up to: ``"one"`` as in the paper and LibMTL, or ``"tasks"``, T, which
            has the plain sum as its mean, so that the latter's learning rate fits.
        seed: of the draws; drawn itself by default.

    Raises:
        ConfigurationError: for an unknown ``total``.
    """

    affine = True
    scale = "linear"

    def __init__(self, num_tasks: int, *, total: Literal["one", "tasks"] = "one", seed: int | None = None) -> None:
        super().__init__(num_tasks)
        if total not in ("one", "tasks"):
            raise ConfigurationError(f"RandomWeighting: expected `total` to be 'one' or 'tasks', found {total!r}.")
        self.total = num_tasks if total == "tasks" else 1
        self.draws = SeededGenerator(seed)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to their randomly weighted sum ()."""
        weights = self.total * torch.softmax(self.draws.normal(self.num_tasks, like=losses), dim=0)
        return (weights * torch.where(present, losses, 0.0)).sum()

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Go on to the next draw."""
        super().after_update(losses)
        self.draws.advance()
