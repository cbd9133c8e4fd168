"""FairGrad: the update as a resource, divided by a notion of fairness."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.solvers import correlations, fair, filled


class FairGrad(GramianBalancer):
    r"""Alpha-fair gradients: `Fair Resource Allocation in Multi-Task Learning <https://arxiv.org/abs/2402.15638>`_
    (Ban and Ji, 2024), equation 4 and algorithm 1.

    .. math:: d = \sum_k w_k g_k, \qquad G w = w^{-1/\alpha}, \quad w > 0

    with G the inner products of the tasks' gradients :math:`g_k`, the power taken entry by entry: where the paper's
    utility :math:`\sum_k (g_k^\top d)^{1-\alpha} / (1-\alpha)` is largest over the directions d of a given length.
    Alpha towards 0 is the plain sum (in direction), 1 is proportional fairness, the same w as Nash-MTL's (without its
    ``max_norm``), and a large one comes near max-min fairness. One task alone gives
    :math:`g_1 / \lVert g_1 \rVert^{2 \alpha / (1 + \alpha)}`.

    Alpha 1 alone is independent of the losses' scales: a loss times c gives the same update. With any other, a task
    whose loss is larger counts for more (alpha below 1) or less (above 1).

    The equation is that of the minimum of a convex function, which a damped Newton method finds to rounding errors; the
    authors' code, LibMTL and torchjd call a least-squares solver, which gives up where gradients differ much in length.

    - Where a combination of gradients with nonnegative weights is 0 (opposing gradients), there is no solution:
      weights would be infinite. 1e-8 on the diagonal of the gradients' cosines then keeps them finite.
    - A gradient of exactly 0 changes nothing in the trunk; its task's weight, for its head, is the others' mean.

    LibMTL weighs heads as well, and has the same defaults. The authors' code (github.com/OptMN-Lab/fairgrad, 2b8cba1,
    ``methods/weight_methods.py``) leaves heads unweighted (``weight_heads=False``), multiplies the trunk's gradient by
    T and clips it to a length of 1; its default is alpha 1 too, its experiments are run with 2.

    Args:
        num_tasks: T.
        alpha: positive; the notion of fairness. The authors' experiments have 2.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well, as in LibMTL and not in the authors' code.
        level: what the gradients are taken of.

    Raises:
        ConfigurationError: for an alpha that is not positive or an unknown option.
    """

    solves_on_host = True
    scale: Literal["linear", "invariant", "none"] = "invariant"

    def __init__(
        self,
        num_tasks: int,
        *,
        alpha: float = 1.0,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = True,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        self.alpha = float(alpha)
        if alpha != 1:
            self.scale = "none"

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,)."""
        found = alpha_fair(gramian, self.alpha).to(gramian.device)
        return filled(found, gramian.diagonal() > 0)


def alpha_fair(gramian: Tensor, alpha: float) -> Tensor:
    """Return the w (P,) > 0 with ``G w = w^(-1 / alpha)``.

    With y = w times the gradients' lengths n, it is ``C y = n^(1 / alpha - 1) y^(-1 / alpha)``, C being their cosines.
    Lengths are taken relative to their mean, so that no power of them overflows.
    """
    lengths, cosines = correlations(gramian)
    power = 1 / alpha
    logs = lengths.log()
    middle = logs.mean()
    y = fair(cosines, (power - 1) * (logs - middle), power)
    return (y.log() + (power - 1) / (power + 1) * middle - logs).exp()
