"""Nash-MTL: the update on which bargaining tasks agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.solvers import correlations, fair, filled
from mtl_lightning.types import state_dtype


class NashMTL(GramianBalancer):
    r"""The Nash bargaining solution: `Multi-Task Learning as a Bargaining Game <https://arxiv.org/abs/2202.01017>`_
    (Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, 2022), claim 3.1 and algorithm 1.

    .. math:: d = \sum_k \alpha_k g_k, \qquad G \alpha = 1 / \alpha, \quad \alpha > 0

    with G the inner products of the tasks' gradients :math:`g_k`, the division taken entry by entry. So
    :math:`\lVert d \rVert = \sqrt P` with P tasks, whatever the gradients' lengths, and ``max_norm`` shortens it. One
    task alone gives its gradient at length 1.

    The equation is that of the minimum of the convex :math:`\alpha^\top G \alpha / 2 - \sum_k \log \alpha_k`, which a
    damped Newton method finds to rounding errors; the authors' code (github.com/AvivNavon/nash-mtl, cce1840,
    ``methods/weight_methods.py``), LibMTL and torchjd approach it by a sequence of
    convex programs, which does not always get there.

    What to know before using it:

    - Where a combination of gradients with nonnegative weights is 0 (opposing gradients), there is no solution:
      weights would be infinite. 1e-8 on the diagonal of the gradients' cosines then keeps them finite.
    - A gradient of exactly 0 changes nothing in the trunk; its task's weight, for its head, is the others' mean.
    - ``update_weights_every`` keeps weights over so many updates in which a task is present. Should one of the present
      tasks be due, all of them get new weights, so that no task is weighed by two bargains.

    LibMTL is the same with the same defaults, but for one thing, a departure from the authors' code as well: they clip
    the trunk's gradient and weigh heads by the unclipped weights; here heads have the same weights as the trunk.

    Args:
        num_tasks: T.
        update_weights_every: how many updates weights are used for.
        max_norm: the largest length of d, in the authors' code and by default 1; 0 for no limit.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well, as in the authors' code.
        level: what the gradients are taken of.

    Attributes:
        alphas: (T,) each task's last weight, before ``max_norm``; used only with ``update_weights_every`` above 1.
        left: (T,) for how many more updates it is used.

    Raises:
        ConfigurationError: for numbers out of range or an unknown option.
    """

    solves_on_host = True
    scale: Literal["linear", "invariant", "none"] = "invariant"
    alphas: Tensor
    left: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        update_weights_every: int = 1,
        max_norm: float = 1.0,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = True,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        self.every, self.max_norm = update_weights_every, float(max_norm)
        if update_weights_every > 1:
            self.scale = "none"
        dtype = state_dtype()
        self.register_buffer("alphas", torch.ones(num_tasks, dtype=dtype))
        self.register_buffer("left", torch.zeros(num_tasks, dtype=torch.int64))
        self._next: tuple[Tensor, Tensor, Tensor] | None = None  # weights, updates left, present; till `after_update`

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,), new or kept, and shortened."""
        alphas = self._kept(gramian, present) if self.every > 1 else bargain(gramian)
        if not self.max_norm:
            return alphas
        length = (alphas @ gramian @ alphas).clamp(min=torch.finfo(alphas.dtype).tiny).sqrt()
        return alphas * (self.max_norm / length).clamp(max=1)

    @torch.no_grad()
    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Keep the weights that the update has used."""
        super().after_update(losses)
        if self._next is not None:
            alphas, left, present = self._next
            self.keep(self.alphas, alphas, present)
            self.keep(self.left, left, present)
            self._next = None

    def _kept(self, gramian: Tensor, present: Tensor) -> Tensor:
        number = len(gramian)
        left = self.here(self.left, present, number)
        if bool((left > 0).all()):
            alphas, left = self.here(self.alphas, present, number).to(gramian), left - 1
        else:
            alphas, left = bargain(gramian), torch.full_like(left, self.every - 1)
        self._next = alphas, left, present
        return alphas


def bargain(gramian: Tensor) -> Tensor:
    """Return the alpha (P,) > 0 with ``G alpha = 1 / alpha``."""
    lengths, cosines = correlations(gramian)
    found = fair(cosines, torch.zeros_like(lengths), 1.0) / lengths
    return filled(found.to(gramian.device), gramian.diagonal() > 0)
