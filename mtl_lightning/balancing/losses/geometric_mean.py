"""The geometric mean of the losses."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.tools.masked import masked_log


class GeometricMean(Balancer):
    r"""The geometric loss strategy (GLS) of `MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy
    for Multi-Task Learning <https://arxiv.org/abs/1904.08492>`_ (Chennupati, Sistu, Yogamani and Rawashdeh, 2019).

    .. math:: \Big( \prod_k L_k \Big)^{1/P} = \exp\Big( \frac1P \sum_k \log L_k \Big)

    over the P tasks k that are present, with task k's mean loss over labelled elements :math:`L_k`. Its gradient gives
    task k the weight :math:`G / (P L_k)`, where G is the mean: the ratios of weights do not depend on the losses'
    units. The logarithms keep the product of many losses from under- or overflowing.

    A loss of 0 makes the product 0: the slope would be infinite for its task and 0 for all others. Departure:
    ``eps`` is added to each loss in the logarithm. Then all is finite: for a loss of 0 its own weight is
    :math:`G / (P\,\text{eps})`, and the others keep small weights, of the order of :math:`\text{eps}^{1/P}`. The mean
    is defined for losses that are not negative; a negative one counts as 0 and gets no gradient.

    LibMTL multiplies the losses and has no ``eps``; with one below the losses' rounding error the two agree.

    Args:
        num_tasks: T, the number of tasks.
        eps: what is added to each loss; in the losses' units, and well below them.

    Raises:
        ConfigurationError: if it is not positive.
    """

    affine = False
    scale = "linear"
    least_loss = 0.0

    def __init__(self, num_tasks: int, *, eps: float = 1e-8) -> None:
        super().__init__(num_tasks)
        self.eps = float(eps)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the geometric mean () of those present."""
        number = present.sum().clamp(min=1)
        mean = torch.exp(masked_log(losses, present, self.eps).sum() / number)
        return torch.where(present.any(), mean, 0.0)
