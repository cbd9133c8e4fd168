"""UPGrad and DualProj: projections onto the directions that harm no task."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.preferences import Preferences
from mtl_lightning.balancing.tools.solvers import correlations, definite, nonnegative
from mtl_lightning.types import ConfigurationError


class _DualConeBalancer(GramianBalancer):
    """Projects onto the dual cone of the gradients: the directions d with ``g_k d >= 0`` for all k."""

    solves_on_host = True

    def __init__(
        self,
        num_tasks: int,
        *,
        pref_vector: list[float] | None = None,
        regularization: float = 0.0,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        if not 0 <= regularization < math.inf:
            raise ConfigurationError(
                f"{type(self).__name__}: expected a finite `regularization` that is not negative, found "
                f"{regularization}."
            )
        self.preferences = Preferences(num_tasks, pref_vector, owner=type(self).__name__)
        self.regularization = float(regularization)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,)."""
        preferences = self.preferences.among(present, gramian).cpu()
        lengths, cosines = correlations(gramian)
        matrix = definite(cosines)
        if self.regularization:
            trace = gramian.diagonal().sum().cpu().clamp(min=torch.finfo(gramian.dtype).tiny)
            matrix.diagonal().add_(self.regularization * trace / lengths**2)
        added = self.project(matrix, preferences * lengths) / lengths
        return (preferences + added).to(gramian.device)

    @abstractmethod
    def project(self, matrix: Tensor, weights: Tensor) -> Tensor:
        """Return what to add to weights (P,) of gradients at length 1, whose cosines are ``matrix`` (P, P)."""


class UPGrad(_DualConeBalancer):
    r"""Every gradient is projected onto the directions that harm no task, and these are averaged: `Jacobian Descent for
    Multi-Objective Optimization <https://arxiv.org/abs/2406.16232>`_ (Quinton and Rey, 2024).

    .. math:: d = \sum_i u_i\, \pi(g_i), \qquad
        \pi(x) = \arg\min_{d:\, g_k^\top d \ge 0 \,\forall k} \lVert d - x \rVert

    with :math:`g_k` the gradient of task k and :math:`u_i = 1 / P` for P present tasks. By proposition 1,
    :math:`\pi(J^\top e_i) = J^\top v_i` with :math:`v_i = \arg\min_{v \ge e_i} v^\top G v` and G the gradients' inner
    products. These P quadratic programs are solved together and exactly, without a package for it.

    A gradient of exactly 0 asks for nothing and gets nothing. One task alone gives its own gradient.

    torchjd and LibMTL add 1e-4 of the squared lengths' sum to the diagonal of G, which lets a task be harmed a little:
    ``regularization=1e-4``; and they leave the gradients as they are where their norm is below 0.01, which this does
    not.

    Args:
        num_tasks: T.
        pref_vector: u, one number per task in order; absent tasks' are left out and the others kept.
        regularization: what is added to the diagonal of G, as a fraction of its trace.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; not by torchjd (0.18), which is the authors' code.
        level: what the gradients are taken of.

    Raises:
        ConfigurationError: for preferences or a regularization that cannot be right, or an unknown option.
    """

    def project(self, matrix: Tensor, weights: Tensor) -> Tensor:
        """Return the projections' additions, each in proportion to its task's weight, summed (P,)."""
        return weights @ nonnegative(matrix, -matrix)[0]


class DualProj(_DualConeBalancer):
    r"""The mean gradient is projected onto the directions that harm no task: `Gradient Episodic Memory for Continual
    Learning <https://arxiv.org/abs/1706.08840>`_ (Lopez-Paz and Ranzato, 2017), equation 11.

    .. math:: d = \arg\min_{d:\, g_k^\top d \ge 0 \,\forall k} \Bigl\lVert d - \sum_i u_i g_i \Bigr\rVert

    with :math:`g_k` the gradient of task k and :math:`u_i = 1 / P` for P present tasks. The paper projects the gradient
    of one task, and those of past ones constrain it; the mean in its place is the reading of `Jacobian Descent for
    Multi-Objective Optimization <https://arxiv.org/abs/2406.16232>`_ and of torchjd. It is solved exactly, as in
    :class:`UPGrad`, whose other remarks hold as well. LibMTL has no DualProj.

    Args:
        num_tasks: T.
        pref_vector: u, one number per task in order; absent tasks' are left out and the others kept.
        regularization: what is added to the diagonal of the gradients' inner products, as a fraction of their trace;
            torchjd has 1e-4.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well.
        level: what the gradients are taken of.

    Raises:
        ConfigurationError: for preferences or a regularization that cannot be right, or an unknown option.
    """

    def project(self, matrix: Tensor, weights: Tensor) -> Tensor:
        """Return the projection's addition (P,)."""
        return nonnegative(matrix, -(matrix @ weights).unsqueeze(0))[0][0]
