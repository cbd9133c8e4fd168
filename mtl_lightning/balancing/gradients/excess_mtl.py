"""Weights that follow how far each task still is from the best it can do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, Rescale, WeighsHeads
from mtl_lightning.balancing.tools.lazy_buffers import LazyBuffers
from mtl_lightning.types import state_dtype

_EPSILON = 1e-7  # under the root, in the authors' code


class ExcessMTL(LazyBuffers, WeighsHeads, GradientBalancer):
    r"""Weights by excess risk: `Robust Multi-Task Learning with Excess Risks <https://arxiv.org/abs/2402.02009>`_ (He,
    Zhou, Zhang, Yun, Xu, Zeng, Chilimbi and Zhao, 2024), equations 6, 7 and 9.

    .. math::
        S_k \leftarrow S_k + g_k^2, \qquad
        E_k = \sum_i \frac{g_{ki}^2}{\sqrt{S_{ki} + 10^{-7}}}, \qquad
        w_k \propto w_k \exp(\eta E_k / E_k^0), \qquad d = \sum_k w_k g_k

    :math:`E_k` estimates by how much task k's loss exceeds the smallest one possible, to second order, with the root of
    the summed squares as the Hessian's diagonal. So a task whose loss is large because of noisy labels, which no
    training would lower, gets no weight for it. :math:`E_k^0` is the mean of :math:`E_k` over the first
    ``warmup_updates`` updates, in which weights stay equal. Weights sum to 1.

    The paper measures :math:`E_k^0` over three epochs; the default of one update is that of the authors' code
    (github.com/yifei-he/ExcessMTL, b179956, ``LibMTL/LibMTL/weighting/ExcessMTL.py``) and of LibMTL. In both the
    weights sum to the number of tasks: ``rescale="sum"``.

    Departures: weights are kept as logarithms, so that a task whose weight became very small can come back. A task
    in its own warm-up, or without any gradient in it, counts as :math:`E_k = E_k^0`. Of an absent task everything
    stays, and the present ones' weights are scaled to sum to 1 for the update.

    State: T * D numbers.

    Args:
        num_tasks: T, the number of tasks.
        step_size: :math:`\eta`, positive; the paper tunes it.
        warmup_updates: how many updates of a task measure where it starts from; at least 1.
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.
        weight_heads: whether the weights also multiply the gradients of the tasks' own parameters, as in the paper and
            in LibMTL, where they weigh losses.

    Raises:
        ConfigurationError: for a number out of its range, or an unknown option.
    """

    scale = "none"
    rescales = ("none", "sum", "norm")
    lazy = ("squares",)
    squares: Tensor
    baseline: Tensor
    log_weights: Tensor
    updates: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        step_size: float = 0.01,
        warmup_updates: int = 1,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = True,
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        self.step_size, self.warmup_updates, self.weight_heads = step_size, warmup_updates, weight_heads
        dtype = state_dtype()
        self.register_buffer("squares", torch.zeros(num_tasks, 0, dtype=dtype))
        self.register_buffer("baseline", torch.zeros(num_tasks, dtype=dtype))
        self.register_buffer("log_weights", torch.full((num_tasks,), -math.log(num_tasks), dtype=dtype))
        self.register_buffer("updates", torch.zeros(num_tasks, dtype=torch.int64))

    def restart(self) -> None:
        """Start from equal weights, in the warm-up."""
        self.baseline.zero_()
        self.log_weights.fill_(-math.log(self.num_tasks))
        self.updates.zero_()

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map rows (P, D) to their weighted sum (D,)."""
        number = len(jacobian)
        self.widen(jacobian.shape[1], jacobian)
        updates = self.here(self.updates, present, number) + 1
        self.keep(self.updates, updates, present)
        logs = self.here(self.log_weights, present, number).double()
        moved = logs + self.step_size * self._relative_excess(jacobian, updates <= self.warmup_updates, present)
        self.keep(self.log_weights, moved.log_softmax(0) + logs.logsumexp(0), present)
        return self.head_weights(present, number).to(jacobian.dtype) @ jacobian

    def head_weights(self, present: Tensor, number: int) -> Tensor:
        """Return the weights (P,) of the present tasks' rows in the last update, which ``weight_heads`` is about."""
        weights = self.here(self.log_weights, present, number).double().softmax(0)
        return weights * number if self.rescale == "sum" else weights

    def _relative_excess(self, jacobian: Tensor, measuring: Tensor, present: Tensor) -> Tensor:
        """Return E / E0 (P,) in float64 of rows (P, D); 1 where E0 is being measured (P,) bool, or 0."""
        number, squared = len(jacobian), jacobian**2
        sums = self.here(self.squares, present, number) + squared
        self.keep(self.squares, sums, present)
        excess = (squared / (sums + _EPSILON).sqrt()).sum(1).double()
        baseline = self.here(self.baseline, present, number).double()
        baseline = baseline + torch.where(measuring, excess / self.warmup_updates, 0.0)
        self.keep(self.baseline, baseline, present)
        return torch.where(measuring | (baseline <= 0), 1.0, excess / baseline)
