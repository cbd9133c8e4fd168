"""Auxiliary tasks that count only while they help the primary one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.rows import GramianBalancer, Level, LossBalancer, Rescale
from mtl_lightning.balancing.tools.primary import Primary
from mtl_lightning.types import Likelihood


class CosineGating(GramianBalancer):
    r"""Auxiliary gradients gated by their cosine with the primary one: `Adapting Auxiliary Losses Using Gradient
    Similarity <https://arxiv.org/abs/1812.02224>`_ (Du, Czarnecki, Jayakumar, Farajtabar, Pascanu and Lakshminarayanan,
    2018), algorithms 1 and 2.

    .. math::
        d = g_0 + \sum_{k > 0} w_k g_k, \qquad w_k = [\cos(g_0, g_k) \ge 0]
        \quad\text{or}\quad w_k = \max(0, \cos(g_0, g_k)) \text{ with } \texttt{weighted}

    where task 0 is the primary one. So the shared parameters go where the primary task's loss does not rise, to first
    order.

    The paper has one auxiliary task; here each is compared with the primary one by itself. While the primary task is
    absent there is nothing to compare with, and all auxiliary gradients pass, as they do where the primary gradient is
    0 (with ``weighted`` then none does, whose cosine is undefined and counts as 0).

    Heads get the gradients of their own losses, unweighted, as in the paper; there is no ``weight_heads``, by which the
    head of a task that is gated would not learn at all. State: none.

    Args:
        num_tasks: T, the number of tasks.
        primary: the primary task, by its index, or by its name, which :meth:`bind` makes known.
        weighted: whether the cosine itself is the weight (the paper's algorithm 1) and not its sign (algorithm 2).
        losses: see :class:`GradientBalancer`.
        rescale: see :class:`GradientBalancer`.
        level: see :class:`GramianBalancer`.

    Raises:
        ConfigurationError: for a primary task that is none, or an unknown option.
    """

    scale = "linear"
    tensors_only = True

    def __init__(
        self,
        num_tasks: int,
        *,
        primary: str | int = 0,
        weighted: bool = False,
        losses: LossBalancer = Balancer,
        rescale: Rescale = "none",
        level: Level = "parameters",
    ) -> None:
        super().__init__(num_tasks, losses=losses, rescale=rescale, level=level)
        self.primary, self.weighted = Primary(primary, num_tasks, "CosineGating"), weighted

    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Look up the primary task's name."""
        super().bind(likelihoods)
        self.primary.bind(likelihoods)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map inner products (P, P) to weights (P,): 1 for the primary task, in [0, 1] for the others."""
        leads = self.primary.among(present, len(gramian))
        products = leads.to(gramian.dtype) @ gramian  # with the primary task's row; 0 if it is absent
        if self.weighted:
            norms = gramian.diagonal().clamp(min=0).sqrt()
            lengths = norms * (leads.to(gramian.dtype) @ norms)
            gates = torch.where(lengths > 0, products / lengths, 0.0).clamp(0, 1)
            gates = torch.where(leads.any(), gates, 1.0)
        else:
            gates = (products >= 0).to(gramian.dtype)
        return torch.where(leads, 1.0, gates)
