"""MGDA: the shortest convex combination of the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.solvers import correlations, definite, nonnegative
from mtl_lightning.types import ConfigurationError

Normalization: TypeAlias = Literal["none", "l2", "loss", "loss+"]


class MGDA(GramianBalancer):
    r"""The point of least norm in the gradients' convex hull: `Multi-Task Learning as Multi-Objective Optimization
    <https://arxiv.org/abs/1810.04650>`_ (Sener and Koltun, 2018), equation 3; the direction is that of `Désidéri, 2012
    <https://doi.org/10.1016/j.crma.2012.03.014>`_.

    .. math:: d = \sum_k w_k g_k, \qquad w = \arg\min_{w \ge 0,\, \sum_k w_k = 1}
        \Bigl\lVert \sum_k w_k \frac{g_k}{n_k} \Bigr\rVert^2

    with :math:`g_k` the gradient of task k and, by ``normalization``, :math:`n_k` = 1 ("none"),
    :math:`\lVert g_k \rVert` ("l2"), the loss :math:`L_k` ("loss") or their product ("loss+"). The normalised
    gradients only serve to find w, as in the authors' code (github.com/isl-org/MultiObjectiveOptimization, bf5bbb3,
    ``multi_task/train_multi_task.py``). With two tasks and n = 1, :math:`w_1` is
    :math:`(g_2 - g_1)^\top g_2 / \lVert g_1 - g_2 \rVert^2`, at least 0 and at most 1. ``level="features"`` is the
    paper's MGDA-UB.

    What to know before using it:

    - Where the hull contains 0, d is 0: no direction is good for all tasks. This includes a gradient that is exactly
      0: its task gets all the weight (tasks with such gradients share it equally).
    - The shortest gradient has the most weight, so that updates are short; ``rescale`` helps.
    - A loss of exactly 0 whose gradient is not 0 makes a normalised gradient infinitely long; its weight is 0.

    Departures: the minimum is exact, where the authors' code and torchjd stop Frank-Wolfe steps early; and with two
    tasks, weights are not kept between 0.001 and 0.999.

    LibMTL leaves heads unweighted (``weight_heads=False``) and combines the normalised gradients
    (``combine="normalized"``), except in its feature mode.

    Args:
        num_tasks: T.
        normalization: what :math:`n_k` is.
        combine: which gradients w is applied to: the ``"original"`` ones or the ``"normalized"`` ones.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there; ``"sum"`` multiplies by the number of tasks, as the MGDA in Nash-MTL's
            code does (github.com/AvivNavon/nash-mtl, cce1840).
        weight_heads: whether heads are weighted as well, as in the authors' code.
        level: what the gradients are taken of.

    Raises:
        ConfigurationError: for an unknown option.
    """

    solves_on_host = True

    def __init__(
        self,
        num_tasks: int,
        *,
        normalization: Normalization = "none",
        combine: Literal["original", "normalized"] = "original",
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = True,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        if normalization not in get_args(Normalization):
            raise ConfigurationError(
                f"MGDA: expected `normalization` to be one of {get_args(Normalization)}, found {normalization!r}."
            )
        if combine not in ("original", "normalized"):
            raise ConfigurationError(f"MGDA: expected `combine` to be 'original' or 'normalized', found {combine!r}.")
        self.by_length, self.by_loss = normalization in ("l2", "loss+"), normalization in ("loss", "loss+")
        if self.by_loss:
            self.least_loss = 0.0
        self.combine_normalized = combine == "normalized"
        if self.combine_normalized:
            self.scale = "none" if normalization == "loss+" else "linear" if normalization == "none" else "invariant"

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,)."""
        inverse = gramian.new_ones(len(gramian))
        if self.by_length:
            squares = gramian.diagonal()
            inverse = torch.where(squares > 0, squares.rsqrt(), inverse)
        if self.by_loss:
            tiny = torch.finfo(losses.dtype).tiny
            inverse = torch.where(losses.abs() > tiny, inverse / losses.abs(), 0.0)
        found = min_norm_point(gramian, inverse)
        return found * inverse if self.combine_normalized else found


def min_norm_point(gramian: Tensor, inverse: Tensor) -> Tensor:
    """Return the weights (P,) of the shortest convex combination of rows.

    With y = w times the rows' lengths, the direction of y minimises ``y' C y / 2 + (e' y - 1)^2 / 2`` over y >= 0,
    where C are the rows' cosines and e the inverses of their lengths.

    Args:
        gramian: (P, P) the rows' inner products before they are scaled.
        inverse: (P,) what the rows are scaled by; 0 for infinitely long ones.
    """
    if len(inverse) == 2 and min(scales := inverse.tolist()) > 0:
        return gramian.new_tensor(_nearest_of_two(gramian.tolist(), scales))
    finite = inverse > 0
    zero = (gramian.diagonal() <= 0) & finite
    if bool(zero.any()):
        return zero / zero.sum()
    if not bool(finite.any()):
        return torch.full_like(inverse, 1 / len(inverse))
    lengths, cosines = correlations(gramian)
    shortness = torch.where(finite.cpu(), 1 / (lengths * inverse.cpu()), 0.0)
    unit = shortness / shortness.max()
    matrix = definite(cosines) + unit * unit.unsqueeze(1)
    found = nonnegative(matrix, unit.unsqueeze(0))[0][0] * unit
    return (found / found.sum()).to(gramian.device)


def _nearest_of_two(gramian: Sequence[Sequence[float]], inverse: Sequence[float]) -> list[float]:
    """Return the weights of the point nearest to 0 between two rows, as numbers of the host: a formula of a line."""
    ((first, product), (_, second)), (a, b) = gramian, inverse
    first, product, second = first * a * a, product * a * b, second * b * b
    apart = first + second - 2 * product
    weight = min(max((second - product) / apart, 0.0), 1.0) if apart > 0 else 0.5
    return [weight, 1 - weight]
