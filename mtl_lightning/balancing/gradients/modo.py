"""Weights from two independent samples of the gradients, and the update from a third one."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, Rescale
from mtl_lightning.balancing.tools.simplex import project_to_simplex, share_of
from mtl_lightning.types import state_dtype


class MoDo(GradientBalancer):
    r"""Multi-objective gradient with double sampling: `Three-Way Trade-Off in Multi-Objective Learning: Optimization,
    Generalization and Conflict-Avoidance <https://arxiv.org/abs/2305.20057>`_ (Chen, Fernando, Ying and Chen, 2023),
    algorithm 1.

    .. math::
        \lambda \leftarrow \Pi\bigl(\lambda - \gamma (J_1 J_2^T + \rho I) \lambda\bigr), \qquad d = J_3^T \lambda

    where :math:`J_s` (T, D) are the rows of sample s, :math:`\lambda` weights that start equal, and :math:`\Pi` is the
    projection to the simplex. Two samples, drawn independently of each other, make the step of the weights unbiased,
    which one sample's Gramian would not.

    Departure: the samples are three equal parts of one batch, so that an update costs no more than elsewhere, and its
    gradient has a third of the batch's samples; heads use them all. LibMTL draws three batches. The authors' code
    (github.com/heshandevaka/Trade-Off-MOL, 3b0e50a, ``LibMTL/LibMTL/weighting/MoDo.py``) draws two, and updates with
    the sum of both. Absent tasks' weights stay, and the present ones' are scaled to sum to 1 for the update.

    Heads get the gradients of their own losses, unweighted: means over the samples, as in LibMTL.

    Args:
        num_tasks: T, the number of tasks.
        gamma: step of the weights, positive; its unit is one over a squared gradient, so that the right value
            depends on the losses' scale. The default is LibMTL's; the authors' code and torchjd have 0.1.
        rho: pulls the weights together; not negative.
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.

    Raises:
        ConfigurationError: for a number out of its range, or an unknown option.
    """

    scale = "none"
    parts = 3
    shares: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        gamma: float = 1e-3,
        rho: float = 0.1,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        self.gamma, self.rho = gamma, rho
        dtype = state_dtype()
        self.register_buffer("shares", torch.full((num_tasks,), 1 / num_tasks, dtype=dtype))

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map the rows (3, P, D) of three samples to the weighted sum (D,) of the third's."""
        first, second, third = jacobian.unbind(0)
        share, total = share_of(self.here(self.shares, present, len(third)).double())
        slope = gramian(first, second) @ share + self.rho * share
        share = project_to_simplex(share - self.gamma * slope)
        self.keep(self.shares, share * total, present)
        return share.to(third.dtype) @ third
