"""IMTL-G: the combination of gradients whose projection on every task's gradient is the same."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.types import ConfigurationError

_DEPENDENT = 1e-6  # of the largest eigenvalue: as little as float32 gradients can tell from 0
_TINY = torch.finfo(torch.float64).tiny
_VANISHING = 1e-12  # of the sum of absolute values


class IMTLG(GramianBalancer):
    r"""Equal projections: `Towards Impartial Multi-task Learning <https://openreview.net/forum?id=IMPnRXEWpvr>`_ (Liu,
    Li, Kuang, Xue, Chen, Yang, Liao and Zhang, 2021), section 3.1, the gradient balance of IMTL.

    .. math:: d = \sum_k w_k g_k, \qquad d^\top u_1 = \dots = d^\top u_P, \qquad \sum_k w_k = 1, \qquad
        u_k = g_k / \lVert g_k \rVert

    with :math:`g_k` the gradient of task k. With C the cosines :math:`u_j^\top u_k`, the solution of the paper's
    equation 5 is :math:`w_k \propto y_k / \lVert g_k \rVert` where :math:`C y = 1`. Written in cosines it does not
    depend on how much longer one gradient is than another.

    What to know before using it:

    - Weights can be negative. Where their sum is negative before it is made 1, the paper's update has a negative
      projection on every gradient, so that it makes every task worse. ``normalization="absolute"`` scales by the sum
      of absolute values instead, which differs from the paper in such updates and never climbs.
    - Gradients that depend on each other linearly, where the paper's inverse does not exist: eigenvalues of C below
      1e-6 of the largest count as that, which gives equal projections where these are possible, and for opposed
      gradients the weights with which they cancel.
    - A gradient of 0 has the weight 0 and the others are balanced as if it were not there. Should all be 0, weights are
      equal.
    - Where the weights' sum vanishes, so that nothing makes it 1, the absolute values' sum is made 1.

    The paper takes gradients of the shared features to save time, ``level="features"``; the default is exact.
    LibMTL has IMTL-G only as a part of IMTL (:class:`~mtl_lightning.balancing.IMTL`).

    Args:
        num_tasks: T.
        normalization: what is made 1: the weights' ``"sum"``, or the sum of their ``"absolute"`` values.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; not by default, as in the paper.
        level: what the gradients are taken of.

    Raises:
        ConfigurationError: for an unknown option.
    """

    tensors_only = True

    def __init__(
        self,
        num_tasks: int,
        *,
        normalization: Literal["sum", "absolute"] = "sum",
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        if normalization not in ("sum", "absolute"):
            raise ConfigurationError(
                f"{type(self).__name__}: expected `normalization` to be 'sum' or 'absolute', found {normalization!r}."
            )
        self.absolute = normalization == "absolute"

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,) of equal projections."""
        norms = gramian.diagonal().clamp(min=0).sqrt()
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        values, vectors = torch.linalg.eigh(gramian * inverse * inverse.unsqueeze(1))
        y = vectors @ (vectors.sum(0) / torch.maximum(values, _DEPENDENT * values.max()).clamp(min=_TINY))
        found = y * inverse / inverse.max()
        total, absolute = found.sum(), found.abs().sum()
        if not self.absolute:
            absolute = torch.where(total.abs() > _VANISHING * absolute, total, absolute)
        return torch.where(norms.max() > 0, found / absolute, 1 / len(found))
