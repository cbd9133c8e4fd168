"""Losses balanced by their logarithm, and gradients by their norm."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing.losses.log_losses import LogLosses
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, Rescale
from mtl_lightning.balancing.tools.lazy_buffers import LazyBuffers
from mtl_lightning.types import state_dtype

_EPSILON = 1e-8  # the paper's, in the norms' denominators


class DBMTL(LazyBuffers, GradientBalancer):
    r"""Dual balancing: `Dual-Balancing for Multi-Task Learning <https://arxiv.org/abs/2308.12029>`_ (Lin, Jiang, Ye,
    Zhang, Chen, Chen, Liu and Kwok, 2023), algorithm 1.

    .. math::
        \hat g_k \leftarrow \beta_t \hat g_k + (1 - \beta_t) \nabla \log(L_k + 10^{-8}), \qquad
        d = \sum_k \frac{\max_j \lVert \hat g_j \rVert}{\lVert \hat g_k \rVert + 10^{-8}} \hat g_k

    with :math:`\beta_t = \beta / t^{\sigma}`. The logarithm makes losses comparable, the second equation gradients:
    every task pulls as hard as the one that pulls hardest. A task without gradient pulls nowhere.

    The averages start at 0 and are not corrected for it, in the paper and in LibMTL alike. With a constant
    :math:`\beta_t` of 0.9 (LibMTL's :math:`\sigma = 0`) the first update is a tenth of what it will be later; with the
    paper's :math:`\sigma = 0.5` too, but :math:`\beta_t` falls, and the averages forget faster and faster.

    Departure: t counts the updates in which a task was present, and the average of an absent one stays as it is.

    Heads get the gradients of their own log losses, that is, those of the losses times :math:`1 / (L_k + 10^{-8})`.
    State: T * D numbers.

    Args:
        num_tasks: T, the number of tasks.
        beta: how much of the average the first update keeps, in [0, 1). With 0 there is no average.
        sigma: how fast that falls; not negative. LibMTL's default is 0.
        losses: see :class:`GradientBalancer`; another one than the logarithm is another method.
        rescale: see :class:`GradientBalancer`.

    Raises:
        ConfigurationError: for a number out of its range.

    Attributes:
        scale: "invariant" with the logarithm, "none" with a loss balancer that is not.
    """

    lazy = ("average",)
    average: Tensor
    updates: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        beta: float = 0.9,
        sigma: float = 0.5,
        losses: LossBalancer = LogLosses,
        rescale: Rescale = "none",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        self.beta, self.sigma = beta, sigma
        self.scale = "invariant" if self.losses.scale == "invariant" else "none"
        dtype = state_dtype()
        self.register_buffer("average", torch.zeros(num_tasks, 0, dtype=dtype))
        self.register_buffer("updates", torch.zeros(num_tasks, dtype=torch.int64))

    def restart(self) -> None:
        """Start at update 1."""
        self.updates.zero_()

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D), of log losses, to the sum (D,) of their averages at equal norms."""
        number = len(jacobian)
        self.widen(jacobian.shape[1], jacobian)
        updates = self.here(self.updates, present, number) + 1
        self.keep(self.updates, updates, present)
        old = self.here(self.average, present, number)
        kept = (self.beta * updates.to(old.dtype) ** -self.sigma).unsqueeze(1)
        average = kept * old + (1 - kept) * jacobian
        self.keep(self.average, average, present)
        norms = average.norm(dim=1)
        combined: Tensor = (norms.max() / (norms + _EPSILON)) @ average
        return combined.to(jacobian.dtype)
