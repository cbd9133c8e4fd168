"""Uncertainty weights at their optimum, computed from the losses instead of learned."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.tools.masked import masked_softmax
from mtl_lightning.types import ConfigurationError

_OF_LARGEST = 2.0  # the default temperature, in units of the largest 1 / loss


class UWSO(Balancer):
    r"""Soft optimal uncertainty weighting (UW-SO) of `Analytical Uncertainty-Based Loss Weighting in Multi-Task
    Learning <https://arxiv.org/abs/2408.07985>`_ (Kirchdorfer, Elich, Kutsche, Stuckenschmidt, Schott and Köhler,
    2024), and its UW-O.

    .. math:: \sum_k w_k L_k, \qquad w = \mathrm{softmax}\Big( \frac{1}{\tau L} \Big)

    over the tasks k that are present, with task k's mean loss over labelled elements :math:`L_k`. The weights are
    constants to the gradient. Uncertainty weighting, whose optimal weight is in proportion to :math:`1 / L_k`, learns
    it by gradient, which is slow; here it is computed, and the softmax with temperature :math:`\tau` softens it.

    With ``form="optimal"`` (UW-O) :math:`w_k = 1 / L_k`: the value is then always P, the number of tasks present, and
    the gradient that of :math:`\sum_k \log L_k`.

    Losses must not be negative.

    Departures:

    - The paper searches for :math:`\tau`, a number in units of 1 / loss, in each experiment: any fixed one makes the
      weights depend on the losses' units, and one that is too small gives a task no weight at all. The default follows
      the losses instead: in each update it is twice the largest :math:`1 / L_k`. A factor that all losses have in
      common then changes no weight, and none is more than :math:`e^{1/2}`, about 1.65, times another.
    - A loss below ``eps`` counts as ``eps`` in the weights, whose largest is then finite.

    Args:
        num_tasks: T, the number of tasks.
        temperature: :math:`\tau`, in units of 1 / loss, to be searched for as in the paper; the larger, the more equal
            the weights. By default it follows the losses, see above. Unused with ``"optimal"``.
        form: ``"softmax"`` (UW-SO) or ``"optimal"`` (UW-O).
        total: what the softmax's weights add up to: ``"one"`` as in the paper, or ``"tasks"``, P, so that a learning
            rate found with the plain sum fits.
        eps: smallest loss that the weights tell from 0.

    Attributes:
        scale: "linear" with the default temperature, "invariant" with ``"optimal"``, else "none".

    Raises:
        ConfigurationError: for an unknown option, and numbers that are not positive.
    """

    affine = False
    least_loss = 0.0

    def __init__(
        self,
        num_tasks: int,
        *,
        temperature: float | None = None,
        form: Literal["softmax", "optimal"] = "softmax",
        total: Literal["one", "tasks"] = "one",
        eps: float = 1e-8,
    ) -> None:
        super().__init__(num_tasks)
        if form not in ("softmax", "optimal") or total not in ("one", "tasks"):
            raise ConfigurationError(
                "UWSO: expected `form` to be 'softmax' or 'optimal' and `total` to be 'one' or 'tasks', found "
                f"{form!r} and {total!r}."
            )
        self.temperature = None if temperature is None else float(temperature)
        self.eps, self.total = float(eps), total
        self.optimal = form == "optimal"
        self.scale = "invariant" if self.optimal else "linear" if temperature is None else "none"

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to their weighted sum ()."""
        losses = torch.where(present, losses, 0.0)
        inverse = 1 / losses.detach().clamp(min=self.eps)
        if self.optimal:
            return (inverse * losses).sum()
        largest = torch.where(present, inverse, 0.0).max()
        temperature = self.temperature or _OF_LARGEST * torch.where(largest > 0, largest, 1.0)
        weights = masked_softmax(inverse / temperature, present)
        if self.total == "tasks":
            weights = weights * present.sum()
        return (weights * losses).sum()
