"""Gradients tracked over updates, and weights that follow their common descent direction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, Rescale
from mtl_lightning.balancing.tools.lazy_buffers import LazyBuffers
from mtl_lightning.balancing.tools.simplex import project_to_simplex, share_of
from mtl_lightning.types import ConfigurationError, state_dtype

_TINY = 1e-8  # added to norms by LibMTL


class MoCo(LazyBuffers, GradientBalancer):
    r"""Multi-objective gradient with correction: `Mitigating Gradient Bias in Multi-objective Learning: A Provably
    Convergent Stochastic Approach <https://arxiv.org/abs/2210.12624>`_ (Fernando, Shen, Liu, Chaudhury, Murugesan and
    Chen, 2023), algorithm 1.

    .. math::
        y_k \leftarrow y_k - \beta_t (y_k - g_k), \qquad
        \lambda \leftarrow \Pi(\lambda - \gamma_t (Y Y^T + \rho I) \lambda), \qquad d = Y^T \lambda

    where :math:`g_k` is row k, :math:`Y` (T, D) holds the tracked gradients :math:`y_k`, which start at 0,
    :math:`\lambda` are weights, which start equal, :math:`\Pi` is the projection to the simplex,
    :math:`\beta_t = \beta / t^{s}`, :math:`\gamma_t = \gamma / t^{s'}`, and t counts updates. So weights change slowly,
    from gradients less noisy than a batch's, which is what takes out the bias of weights computed batch by batch.

    The gradients change by steps :math:`\beta_t`, hence the first updates are small ones. Departures: t counts the
    updates in which a task was present. Of absent tasks both :math:`y_k` and :math:`\lambda_k` stay, and the present
    ones' weights are scaled to sum to 1 for the update. ``variant="libmtl"`` multiplies each row by
    :math:`L_k / \lVert g_k \rVert` first, and takes a softmax in place of the projection, neither of which is in
    the paper. A loss of 0 then switches its task's row off, as it does in LibMTL.

    Heads get the gradients of their own losses, unweighted. State: T * D numbers.

    Args:
        num_tasks: T, the number of tasks.
        beta: first step of the tracked gradients, in (0, 1].
        beta_sigma: s, how fast this step falls; not negative.
        gamma: first step of the weights, positive. Its unit is one over a squared gradient.
        gamma_sigma: s', how fast this step falls; not negative.
        rho: pulls the weights together; not negative.
        variant: ``"paper"`` or ``"libmtl"``.
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.

    Raises:
        ConfigurationError: for a number out of its range, or an unknown option.
    """

    scale = "none"
    lazy = ("tracked",)
    tracked: Tensor
    shares: Tensor
    updates: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
        variant: Literal["paper", "libmtl"] = "paper",
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        if variant not in ("paper", "libmtl"):
            raise ConfigurationError(f"MoCo: expected `variant` to be 'paper' or 'libmtl', found {variant!r}.")
        self.beta, self.beta_sigma, self.gamma, self.gamma_sigma, self.rho = beta, beta_sigma, gamma, gamma_sigma, rho
        self.variant = variant
        if variant == "libmtl":
            self.least_loss = 0.0
        dtype = state_dtype()
        self.register_buffer("tracked", torch.zeros(num_tasks, 0, dtype=dtype))
        self.register_buffer("shares", torch.full((num_tasks,), 1 / num_tasks, dtype=dtype))
        self.register_buffer("updates", torch.zeros(num_tasks, dtype=torch.int64))

    def restart(self) -> None:
        """Start from equal weights, at update 1."""
        self.shares.fill_(1 / self.num_tasks)
        self.updates.zero_()

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to the weighted sum (D,) of the tracked gradients."""
        number = len(jacobian)
        self.widen(jacobian.shape[1], jacobian)
        updates = self.here(self.updates, present, number) + 1
        self.keep(self.updates, updates, present)
        if self.variant == "libmtl":
            jacobian = jacobian * (losses / (jacobian.norm(dim=1) + _TINY)).to(jacobian.dtype).unsqueeze(1)
        step = (self.beta * updates.to(jacobian.dtype) ** -self.beta_sigma).unsqueeze(1)
        tracked = self.here(self.tracked, present, number)
        tracked = tracked + step.to(tracked.dtype) * (jacobian - tracked)
        self.keep(self.tracked, tracked, present)
        share = self._descend(tracked, updates, present)
        return (share.to(tracked.dtype) @ tracked).to(jacobian.dtype)

    def _descend(self, tracked: Tensor, updates: Tensor, present: Tensor) -> Tensor:
        """Take one step of the weights of tracked gradients (P, D); return them, (P,) float64."""
        share, total = share_of(self.here(self.shares, present, len(tracked)).double())
        slope = gramian(tracked) @ share + self.rho * share
        moved = share - self.gamma * updates.double() ** -self.gamma_sigma * slope
        share = moved.softmax(0) if self.variant == "libmtl" else project_to_simplex(moved)
        self.keep(self.shares, share * total, present)
        return share
