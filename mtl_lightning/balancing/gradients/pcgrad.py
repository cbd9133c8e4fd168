"""PCGrad: each gradient loses what conflicts with the others, one after the other in random order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator


class PCGrad(GramianBalancer):
    r"""Projecting conflicting gradients: `Gradient Surgery for Multi-Task Learning <https://arxiv.org/abs/2001.06782>`_
    (Yu, Kumar, Gupta, Levine, Hausman and Finn, 2020), algorithm 1.

    .. math:: d = \sum_i g_i^{PC}, \qquad g_i^{PC} \leftarrow g_i^{PC} -
        \frac{\min(0,\, g_i^{PC} \cdot g_j)}{\lVert g_j \rVert^2}\, g_j \quad
        \text{for the other tasks } j \text{ in random order}

    where :math:`g_i^{PC}` starts as :math:`g_i`, the gradient of task i, and the :math:`g_j` are the unchanged ones. It
    needs only inner products: those of every :math:`g_i^{PC}` with all :math:`g_j` are kept up to date.

    A gradient of exactly 0 conflicts with none. One task alone gives its own gradient. With two, nothing is random.

    LibMTL lets i itself be visited, which matters once earlier projections have turned :math:`g_i^{PC}` against
    :math:`g_i`: ``visit_own=True``. It also adds 1e-8 to the squared length.

    Args:
        num_tasks: T.
        visit_own: whether j = i is visited as well.
        seed: of the orders of visit; by default drawn from torch's global state.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; not in the paper.
        level: what the gradients are taken of.

    Attributes:
        draws: gives each task one number per task, whose order is that of its visits.

    Raises:
        ConfigurationError: for an unknown option.
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        visit_own: bool = False,
        seed: int | None = None,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        self.visit_own = visit_own
        self.draws = SeededGenerator(seed)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,) of the sum of the projected gradients."""
        number = len(gramian)
        if number <= 2:  # the order does not matter
            return project_conflict(gramian)
        keys = self.draws.uniform(self.num_tasks, self.num_tasks, like=gramian)
        keys = self.here(self.here(keys, present, number).T, present, number).T
        return project_conflicts(gramian, keys.argsort(dim=1), self.visit_own)

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Go on to other orders."""
        super().after_update(losses)
        self.draws.advance()


def project_conflict(gramian: Tensor) -> Tensor:
    """Return the weights (P,) for at most two tasks, for whom there is but one order."""
    conflict = -gramian.sum(0).sub(gramian.diagonal()).clamp(max=0)
    return 1 + conflict / gramian.diagonal().clamp(min=torch.finfo(gramian.dtype).tiny)


def project_conflicts(gramian: Tensor, orders: Tensor, visit_own: bool) -> Tensor:
    """Return the weights (P,) of the sum of the projected gradients.

    All tasks make their visits at the same time.

    Args:
        gramian: (P, P).
        orders: (P, P) int64, row i says whom task i visits, in order.
        visit_own: whether a visit to itself counts.
    """
    visits = orders.T.contiguous().unsqueeze(2)  # by time, then by task
    shares = 1 / gramian.diagonal().clamp(min=torch.finfo(gramian.dtype).tiny)[visits]
    if not visit_own:
        shares = shares.masked_fill(visits == torch.arange(len(gramian), device=gramian.device).unsqueeze(1), 0.0)
    products = gramian.clone()  # of g_i^PC with g_j
    taken = []
    for visited, share in zip(visits.unbind(0), shares.unbind(0), strict=True):
        amount = products.gather(1, visited).clamp_(max=0).mul_(share)
        products.addcmul_(amount, gramian.index_select(0, visited.squeeze(1)), value=-1)
        taken.append(amount)
    return gramian.new_ones(len(gramian)).index_add(0, visits.flatten(), -torch.cat(taken).squeeze(1))
