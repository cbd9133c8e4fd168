"""Weights that make all tasks' gradients equally long."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale

NEGLIGIBLE = 1e-12
"""A gradient this much shorter than the longest one is rounding noise, which is not to be blown up."""


class GradientNormBalancing(GramianBalancer):
    r"""Every task's gradient is scaled to the mean length: :math:`w_k = \mathrm{mean}_j \lVert g_j \rVert / \lVert g_k
    \rVert`.

    :math:`g_k` is the gradient of task k's loss. This is what the weights of `GradNorm
    <https://arxiv.org/abs/1711.02257>`_ (Chen et al., 2018) would come to with its alpha at 0, were they free to change
    between any two updates and not scaled to a sum; it has no paper of its own, no state and nothing to tune. What
    differs from a plain sum is the ratio of the tasks; the length stays that of the gradients.

    A gradient of 0, or one shorter than 1e-12 of the longest, is left out of the mean and has the weight 1: there is
    nothing in it that could be scaled.

    LibMTL has no such method.

    Args:
        num_tasks: T.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; not by default, since the lengths of trunk gradients say
            nothing of theirs.
        level: what the gradients are taken of.
    """

    tensors_only = True

    def __init__(
        self,
        num_tasks: int,
        *,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the mean length over each gradient's length (P,)."""
        norms = gramian.diagonal().clamp(min=0).sqrt()
        counted = norms > NEGLIGIBLE * norms.max()
        mean = torch.where(counted, norms, 0.0).sum() / counted.sum().clamp(min=1)
        return torch.where(counted, mean / torch.where(counted, norms, 1.0), 1.0)
