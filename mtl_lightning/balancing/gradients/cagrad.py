"""CAGrad: near the mean gradient, the direction that is best for the task that fares worst."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.solvers import correlations, definite, nonnegative, solve_within
from mtl_lightning.types import ConfigurationError

_DIVISORS = ("none", "1+c", "1+c^2")
_ROUNDS = 60  # 1 to 5 are usual
_EXACT = 1e-9  # of the radius
_SUPPORTED = 0.9  # of a squared distance
_VANISHING = 1e-7  # of the gradients' lengths: as little as inner products in float64 can tell from 0


class CAGrad(GramianBalancer):
    r"""Conflict-averse descent: `Conflict-Averse Gradient Descent for Multi-task Learning
    <https://arxiv.org/abs/2110.14048>`_ (Liu, Liu, Jin, Stone and Liu, 2021), algorithm 1.

    .. math:: d = \arg\max_d \min_k g_k^\top d \quad \text{such that} \quad \lVert d - g_0 \rVert
        \le c \lVert g_0 \rVert

    with :math:`g_k` the gradient of task k and :math:`g_0` their mean over the P present tasks. With :math:`w \ge 0`
    of sum 1 that minimises :math:`g_w^\top g_0 + c \lVert g_0 \rVert \lVert g_w \rVert`, where
    :math:`g_w = \sum_k w_k g_k`, it is :math:`d = g_0 + c \lVert g_0 \rVert\, g_w / \lVert g_w \rVert`
    (algorithm 1). One task alone gives :math:`(1 + c) g_1`.

    With c below 1 the step goes down the mean loss: :math:`g_0^\top d \ge (1 - c) \lVert g_0 \rVert^2`. That is all
    that is guaranteed: the task that fares worst fares as well as the radius allows, and may still be harmed.

    It is solved exactly, as the search for the largest :math:`\mu` such that the d nearest to :math:`g_0` with all
    :math:`g_k^\top d \ge \mu` is within the radius. In units of the gradients' own lengths throughout, so that small
    gradients are treated as large ones are; torchjd returns 0 below a length of 0.01.

    - Where the gradients' hull contains 0 and the radius allows it, any d within it that harms no task is a solution;
      the one nearest to :math:`g_0` is taken. The authors' formula divides by 0 there.
    - A gradient of exactly 0 counts in :math:`g_0` and is left out of the minimum, which it would hold at 0.

    The authors' code (github.com/Cranial-XIX/CAGrad, dc3d481, ``nyuv2/utils.py`` and ``cityscapes/utils.py``) and
    LibMTL divide d by :math:`1 + c^2` (their ``rescale=1``; 2 is :math:`1 + c`, as in its ``toy.py``): set
    ``divide_by``. The paper does not.

    Args:
        num_tasks: T.
        c: the radius, as a fraction of the mean gradient's length; the paper asks for 0 <= c < 1.
        divide_by: what d is divided by.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; not in the authors' code.
        level: what the gradients are taken of.

    Raises:
        ConfigurationError: for a negative c or an unknown option.
    """

    solves_on_host = True

    def __init__(
        self,
        num_tasks: int,
        *,
        c: float = 0.5,
        divide_by: Literal["none", "1+c", "1+c^2"] = "none",
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        if divide_by not in _DIVISORS:
            raise ConfigurationError(f"CAGrad: expected `divide_by` to be one of {_DIVISORS}, found {divide_by!r}.")
        self.c = float(c)
        self.divisor = dict(zip(_DIVISORS, (1.0, 1 + c, 1 + c**2), strict=True))[divide_by]

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,) of d."""
        found = 1 / len(gramian) + conflict_averse(gramian, self.c)
        return found.to(gramian.device) / self.divisor


def conflict_averse(gramian: Tensor, c: float) -> Tensor:
    """Return what the best direction adds to the mean gradient: weights (P,), not negative."""
    lengths, cosines = correlations(gramian)
    counted = gramian.diagonal().cpu() > 0
    mean = torch.where(counted, lengths, 0.0) / len(lengths)
    projections = cosines @ mean  # of g_0 on each gradient at length 1
    radius = c * float((mean @ projections).clamp(min=0).sqrt())
    if radius <= c * _VANISHING * float(lengths.max()):
        return torch.zeros_like(lengths)
    shortness = torch.where(counted, lengths.max() / lengths, 0.0)
    shortness = shortness / shortness.max()
    search = _Search(definite(cosines), projections / radius, shortness, counted)
    return search.run(cosines) * radius / lengths


class _Search:
    """Looks for the level mu at which the nearest direction with ``g_k d >= mu`` for all k is at distance 1.

    Args:
        matrix: cosines of the gradients (P, P), positive definite.
        projections: g_0 projected on each gradient (P,), in units of the radius.
        shortness: inverse lengths (P,), which turn mu into a bound on a projection.
        counted: which gradients have a bound, (P,) bool.
    """

    def __init__(self, matrix: Tensor, projections: Tensor, shortness: Tensor, counted: Tensor) -> None:
        self.matrix, self.projections, self.shortness, self.counted = matrix, projections, shortness, counted

    def run(self, cosines: Tensor) -> Tensor:
        """Return the multipliers (P,) of the gradients at length 1."""
        low, high = self.bounds()
        support = self.counted.unsqueeze(0)
        for _ in range(_ROUNDS):
            level = self.level(support, low, high)
            found, support = self.nearest(level, support)
            distance = math.sqrt(float(found @ self.matrix @ found))
            if level > 0 and float(found @ cosines @ found) < _SUPPORTED * distance**2:
                # such a level only the ridge on the diagonal can hold: there is no direction above 0
                return self.nearest(0.0, None)[0]
            if abs(distance - 1) <= _EXACT or level in (low, high):
                break
            low, high = (level, high) if distance < 1 else (low, level)
        return found

    def bounds(self) -> tuple[float, float]:
        """Return levels on both sides of the one at distance 1: where the first gradient gets involved, and too far."""
        first = torch.where(self.counted, self.projections / self.shortness, torch.inf).min()
        too_far = torch.where(self.counted, (self.projections + 1.001) / self.shortness, torch.inf).min()
        return float(first), float(too_far)

    def nearest(self, level: float, support: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the multipliers (P,) of the nearest direction at a level, and which are positive, (1, P)."""
        wanted = (level * self.shortness - self.projections).unsqueeze(0)
        found, support = nonnegative(self.matrix, wanted, support)
        return found[0], support

    def level(self, support: Tensor, low: float, high: float) -> float:
        """Return the level at distance 1 if just the gradients in ``support`` (1, P) are met, with equality.

        Their distance squared is a quadratic function of the level. Where that is not between the bounds, halve.
        """
        right = torch.stack([self.shortness, self.projections])
        solved = solve_within(self.matrix, right, support.expand(2, -1))
        (a, b), (_, d) = (solved @ right.T).tolist()
        root = b * b - a * (d - 1)
        found = (b + math.sqrt(root)) / a if root >= 0 and a > 0 else math.nan
        return found if low <= found <= high else (low + high) / 2
