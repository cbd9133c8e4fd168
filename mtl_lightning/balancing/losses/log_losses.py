"""Logarithms of the losses, in front of any loss balancer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import LossBalancer, inner_balancer
from mtl_lightning.balancing.tools.masked import masked_log
from mtl_lightning.types import Likelihood


class LogLosses(Balancer):
    r"""A loss balancer's objective of the losses' logarithms, :math:`\log(L_k + \text{eps})` in place of :math:`L_k`.

    With the plain sum this is scale-invariant loss weighting, :math:`\sum_k \log L_k`: each task's gradient is divided
    by its loss, so that units and sizes of losses do not matter. It is what uncertainty weighting converges to, without
    anything to learn. As ``losses`` of a gradient balancer it makes that method's log variant (LOG-MGDA, LOG-CAGrad,
    LOG-IMTL-G): `FAMO <https://arxiv.org/abs/2306.03792>`_ (Liu et al., 2023) and `Dual-Balancing for Multi-Task
    Learning <https://arxiv.org/abs/2308.12029>`_ (Lin et al., 2023) report large gains from it::

        MGDA(3, losses=LogLosses)

    Logarithms may be negative. So the balancer has to be one that takes any loss, such as a sum with constant or random
    weights. One that expects losses not to be negative has no meaning here: the noise levels of
    :class:`~mtl_lightning.balancing.UncertaintyWeighting`, say, would go to their lower bound; training warns of
    a loss below 1 under it.

    Losses must not be negative: a negative one counts as 0 and gets no gradient.

    Args:
        num_tasks: T, the number of tasks.
        losses: makes the loss balancer that gets the logarithms, from T; the plain sum by default.
        eps: what is added to each loss, which keeps the slope finite at 0; 1e-8 as in the FAMO
            authors' code and in LibMTL's DB_MTL.

    Attributes:
        scale: "invariant" for a balancer with an affine objective, whose weights are then constants, else "none".

    Raises:
        ConfigurationError: for an ``eps`` that is not positive, or a balancer that is no loss balancer.
    """

    affine = False
    tensors_only = True
    least_loss: float | Sequence[float] | None = 0.0

    def __init__(self, num_tasks: int, *, losses: LossBalancer = Balancer, eps: float = 1e-8) -> None:
        super().__init__(num_tasks)
        self.eps = float(eps)
        self.losses = inner_balancer(losses, num_tasks, "LogLosses")
        self.follows_epochs, self.epochs_to_start = self.losses.follows_epochs, self.losses.epochs_to_start
        least = self.losses.least_loss
        if least is not None:  # its logarithms must not be lower
            self.least_loss = math.exp(least) if isinstance(least, int | float) else [math.exp(one) for one in least]
        self.scale = "invariant" if self.losses.affine else "none"

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Pass the tasks' names and likelihoods on."""
        super().bind(likelihoods)
        self.losses.bind(likelihoods)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the balancer's objective () of their logarithms."""
        return self.losses.objective(masked_log(losses, present, self.eps), present)

    def owned(self) -> dict[int, list[nn.Parameter]]:
        """Return the balancer's parameters of each task."""
        return self.losses.owned()

    def sigmas(self) -> Tensor | None:
        """Return the balancer's noise scales (T,), which are those of the logarithms."""
        return self.losses.sigmas()

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Do what the balancer does after an optimizer step."""
        super().after_update(losses)
        self.losses.after_update(lambda: self._logs(losses()))

    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Do what the balancer does after an epoch; it gets the logarithms of the means."""
        super().after_epoch(losses, present)
        self.losses.after_epoch(masked_log(losses, present, self.eps), present)

    def _logs(self, losses: Tensor) -> Tensor:
        return masked_log(losses, torch.ones_like(losses, dtype=torch.bool), self.eps)
