"""PCD: one task has priority, and the others are guaranteed a fraction of their own progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.primary import Primary
from mtl_lightning.balancing.tools.solvers import correlations, definite, nonnegative
from mtl_lightning.types import Likelihood, state_dtype

_FARTHEST = 1e3  # length of a correction, in units of the largest violation
_CANCELLED = 1e-3  # of the terms' lengths: what float32 gradients leave of a sum that is 0


class PCD(GramianBalancer):
    r"""One task leads, within guarantees to the others: `Not All Objectives Are Born Equal: Priority-Constrained
    Descent for Hierarchical Multi-Objective Optimization <https://arxiv.org/abs/2606.29521>`_ (TMLR 2026).

    .. math:: \tilde d = \arg\min_d \tfrac12 \lVert d - \tilde g_1 \rVert^2 \quad \text{such that} \quad
        \tilde g_j^\top d \ge \tau \lVert \tilde g_j \rVert^2 \text{ for } j \ne 1, \qquad
        d = \tilde d\, \lVert g_1 \rVert / \lVert \tilde d \rVert

    with :math:`g_1` the gradient of the primary task's loss, and :math:`\tilde g_k = g_k / \sqrt{\hat v_k + \epsilon}`,
    where :math:`\hat v_k` is the bias-corrected moving average of :math:`\lVert g_k \rVert^2` over the updates: an
    ordinary gradient has a length of about 1 for every task, so that :math:`\tau` is a fraction of a task's usual
    progress.

    As in torchjd: where the guarantees exclude each other, which takes two other tasks or more, they are given up and d
    is :math:`g_1`; where :math:`g_1` or :math:`\tilde d` is 0, so is d. Guarantees count as excluding each other if
    they would take a correction a thousand times as long as their largest violation, which float32 gradients cannot
    tell from infinity. Departures:

    - Averages are kept per task, an absent task's stay as they are, and torchjd's reset does not happen.
    - In an update without the primary task nobody leads: d is the mean of the :math:`\tilde g_k`, times the mean length
      of the gradients that are present.

    The tasks are not on a par: renaming or reordering them changes nothing as long as ``primary`` names the same one.
    LibMTL has no PCD.

    Args:
        num_tasks: T.
        primary: the task that leads, by its name, which :meth:`bind` makes known, or its index.
        tau: the guaranteed fraction of each other task's progress, from 0 (they are not to become worse) to 1.
        beta: decay of the moving averages.
        eps: what keeps them from 0.
        losses: makes the loss balancer from T; see :class:`~mtl_lightning.balancing.rows.GradientBalancer`.
        rescale: see there.
        weight_heads: whether heads are weighted as well; not by default: a guarantee that is met anyway has the weight
            0, with which its head would not learn.
        level: what the gradients are taken of.

    Attributes:
        square_norms: (T,) moving averages of the squared lengths, not yet corrected for their start at 0.
        updates: (T,) how many updates each has seen.

    Raises:
        ConfigurationError: for options out of range, or a primary task that is none.
    """

    solves_on_host = True
    scale = "none"
    square_norms: Tensor
    updates: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        primary: str | int = 0,
        tau: float = 0.02,
        beta: float = 0.999,
        eps: float = 1e-8,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        weight_heads: bool = False,
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, weight_heads=weight_heads, level=level)
        self.primary = Primary(primary, num_tasks, "PCD")
        self.tau, self.beta, self.eps = tau, beta, eps
        dtype = state_dtype()
        for name in ("square_norms", "updates"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=dtype))
        self._seen: tuple[Tensor, Tensor] | None = None  # the last update's averages and counts, till `after_update`

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Look up the primary task.

        Raises:
            ConfigurationError: if its name is no task.
        """
        super().bind(likelihoods)
        self.primary.bind(likelihoods)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Return the weights (P,) of the direction; the averages are kept by :meth:`after_update`."""
        squares = gramian.diagonal().clamp(min=0)
        number = len(squares)
        updates = self.here(self.updates, present, number).to(squares) + 1
        averages = self.here(self.square_norms, present, number).to(squares).lerp(squares, 1 - self.beta)
        self._seen = self.square_norms.clone(), self.updates.clone()
        self.keep(self._seen[0], averages.to(self.square_norms), present)
        self.keep(self._seen[1], updates.to(self.updates), present)
        scales = (averages / (1 - self.beta**updates) + self.eps).rsqrt()
        leading = self.primary.among(present, number).cpu()
        if not leading.any():
            return scales * squares.sqrt().mean() / number
        return priority(gramian, scales, leading, self.tau).to(gramian.device)

    @torch.no_grad()
    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Keep the averages that the update has used."""
        super().after_update(losses)
        if self._seen is not None:
            self.square_norms.copy_(self._seen[0])
            self.updates.copy_(self._seen[1])
            self._seen = None


def priority(gramian: Tensor, scales: Tensor, leading: Tensor, tau: float) -> Tensor:
    """Map a Gramian (P, P) and the scales (P,) of its gradients to the weights (P,) of PCD's direction, on the CPU.

    In terms of gradients u of length 1, and with the scaled primary gradient's length as the unit, the correction
    ``x = d - g_1`` is the shortest with ``u_j x >= tau |g_j| - u_j u_1`` for the others j.

    Args:
        gramian: the Gramian.
        scales: what makes the gradients ordinary.
        leading: (P,) bool, True for the primary task alone, on the CPU.
        tau: the guaranteed fraction.
    """
    lengths, cosines = correlations(gramian)
    nonzero, scales = gramian.diagonal().cpu() > 0, scales.cpu()
    if not (nonzero & leading).any():
        return torch.zeros_like(lengths)
    unit = (lengths * scales)[leading]
    others = nonzero & ~leading
    wanted = tau * lengths * scales / unit - cosines[leading].squeeze(0)
    multipliers = torch.zeros_like(lengths)
    multipliers[others] = shortest(cosines[others][:, others], wanted[others])
    correction = _length(multipliers, cosines)
    multipliers[leading] = 1.0
    size = _length(multipliers, cosines)
    if size <= _CANCELLED * (1 + correction):
        return torch.zeros_like(lengths)
    return multipliers / lengths * (lengths[leading] / size)


def shortest(cosines: Tensor, wanted: Tensor) -> Tensor:
    """Return the m (N,) >= 0 of the shortest ``x = sum_j m_j u_j`` with ``u_j x >= wanted_j`` for all j.

    Least distance programming, chapter 23 of Lawson and Hanson, Solving Least Squares Problems (1974): where v >= 0 is
    the least-squares solution of ``sum_j v_j u_j = 0`` and ``sum_j v_j wanted_j = 1``, and r what it misses of the 1,
    ``m = v / r``; there is no x at all where it misses nothing.

    Args:
        cosines: (N, N) inner products of the u_j, of length 1.
        wanted: (N,).

    Returns:
        The multipliers; 0 if no x up to a thousand times as long as the largest ``wanted`` has the property.
    """
    if not len(wanted) or wanted.max() <= 0:
        return torch.zeros_like(wanted)
    unit = wanted.max()
    right = (wanted / unit).clamp(min=-_FARTHEST)  # what holds for every x of up to this length anyway
    found = nonnegative(definite(cosines + right * right.unsqueeze(1)), right.unsqueeze(0))[0].squeeze(0)
    missed = 1 - right @ found  # 1 / (1 + |x|^2), in units of the largest wanted
    return unit * found / missed if missed > 1 / (1 + _FARTHEST**2) else torch.zeros_like(wanted)


def _length(weights: Tensor, cosines: Tensor) -> Tensor:
    """Return the length () of a weighted sum of gradients of length 1."""
    return (weights @ cosines @ weights).clamp(min=0).sqrt()
