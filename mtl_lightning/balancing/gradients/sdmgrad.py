"""A common descent direction held close to a preferred one, from independent samples of the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.gramian import gramian
from mtl_lightning.balancing.rows import GradientBalancer, LossBalancer, Rescale
from mtl_lightning.balancing.tools.preferences import Preferences
from mtl_lightning.balancing.tools.simplex import project_to_simplex, share_of
from mtl_lightning.types import state_dtype


class SDMGrad(GradientBalancer):
    r"""Stochastic direction-oriented gradient: `Direction-oriented Multi-objective Learning: Simple and Provable
    Stochastic Algorithms <https://arxiv.org/abs/2305.18409>`_ (Xiao, Ban and Ji, 2023), algorithm 1.

    .. math::
        \min_{w \in \Delta} \tfrac{1}{2} \lVert J^T (w + \lambda \tilde w) \rVert^2, \qquad
        d = \frac{J_3^T (w + \lambda \tilde w)}{1 + \lambda}

    where :math:`\tilde w` is the preferred weighting and :math:`\Delta` the simplex. The minimum is approached by
    ``steps`` steps of gradient descent with momentum, projected to the simplex, whose slope
    :math:`J_1 J_2^T (w + \lambda \tilde w)` comes from two samples that are independent of each other, which makes it
    unbiased. :math:`J_1 J_2^T` is divided by the squared mean length of a row first (section 6.1 of the paper), so
    that the step size does not depend on the losses' scale: with :math:`\max(0, \cdot)` of its diagonal for the squared
    lengths. Where all of the diagonal is negative the samples agree on nothing, and the weights stay. The descent
    starts where the last update's ended, from equal weights in the first.

    Departures: the samples are three equal parts of one batch, as for :class:`MoDo`, where other code draws three
    batches. Absent tasks' weights stay, and the present ones' are scaled to sum to 1 for the update, the preferred ones
    too. Nothing is added to the lengths: LibMTL adds 1e-8 to the squared length, the authors' code
    (github.com/OptMN-Lab/sdmgrad, 8333f9e, ``methods/weight_methods.py``) 1e-4 under each root, with no
    :math:`\max(0, \cdot)`. That code keeps the three samples' gradients in one and the same tensor, so that the last
    sample stands for all three; it also multiplies the trunk's gradient by T and clips it to a length of 1.

    Heads get the gradients of their own losses, unweighted: means over the samples. LibMTL sums the three, and takes
    the gradient of the first sample, and the weights of the other two.

    Args:
        num_tasks: T, the number of tasks.
        pull: :math:`\lambda`, how strongly the preferred direction counts; not negative.
        pref_vector: :math:`\tilde w` in the tasks' order, not negative, scaled to sum to 1; equal by default.
        step_size: of the descent, positive; the authors' code has 10, LibMTL 5.
        momentum: of the descent, in [0, 1).
        steps: how many per update; at least 1.
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.

    Raises:
        ConfigurationError: for a number out of its range, or an unknown option.
    """

    scale = "linear"
    parts = 3
    shares: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        pull: float = 0.3,
        pref_vector: list[float] | None = None,
        step_size: float = 10.0,
        momentum: float = 0.5,
        steps: int = 20,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale)
        self.preferences = Preferences(num_tasks, pref_vector, "SDMGrad")
        self.pull, self.step_size, self.momentum, self.steps = pull, step_size, momentum, steps
        dtype = state_dtype()
        self.register_buffer("shares", torch.full((num_tasks,), 1 / num_tasks, dtype=dtype))

    def combine(self, jacobian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map the rows (3, P, D) of three samples to the weighted sum (D,) of the third's."""
        first, second, third = jacobian.unbind(0)
        share, total = share_of(self.here(self.shares, present, len(third)).double())
        pulled = self.pull * share_of(self.preferences.among(present, share))[0]
        share = self._descend(gramian(first, second), share, pulled)
        self.keep(self.shares, share * total, present)
        weights = (share + pulled) / (1 + self.pull)
        return weights.to(third.dtype) @ third

    def _descend(self, products: Tensor, share: Tensor, pulled: Tensor) -> Tensor:
        """Descend from weights (P,), given the rows' inner products (P, P) across samples and lambda * w~ (P,)."""
        length = products.diagonal().clamp(min=0).sqrt().mean()
        # divided twice: the square of a small length may be 0
        slopes = torch.where(length > 0, products / length / length, torch.zeros_like(products))
        velocity = torch.zeros_like(share)
        for _ in range(self.steps):
            velocity = self.momentum * velocity + slopes @ (share + pulled)
            share = project_to_simplex(share - self.step_size * velocity)
        return share
