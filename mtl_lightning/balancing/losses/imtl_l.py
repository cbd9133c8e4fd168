"""Learned scales that bring all losses to the same size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.types import ConfigurationError, state_dtype


class IMTLL(Balancer):
    r"""The loss half of `Towards Impartial Multi-task Learning <https://openreview.net/forum?id=IMPnRXEWpvr>`_ (Liu,
    Li, Kuang, Xue, Chen, Yang, Liao and Zhang, 2021), IMTL-L.

    .. math:: \sum_k e^{s_k} L_k - s_k

    over the tasks k that are present. :math:`L_k` is task k's mean loss over labelled elements, which must not be
    negative, and :math:`s_k` is learned. At the optimum :math:`e^{s_k} L_k = 1`: every scaled loss is 1, whatever the
    loss is. In value this is twice :class:`~mtl_lightning.balancing.UncertaintyWeighting` with Gaussian likelihoods for
    every task and :math:`-s_k` as its log-variances; it takes no account of what the losses mean.

    The gradient half is :class:`~mtl_lightning.balancing.IMTLG`; both together are the paper's method.

    Departure: ``bounds``, which the paper does not have, are applied to the parameters after each step, since a loss
    that goes to 0 would take its scale to infinity. LibMTL has none either, and learns s with the network's optimizer
    and its weight decay; here s has the group ``balancer`` and none.

    Args:
        num_tasks: T, the number of tasks.
        init: where every s starts; the paper's 0 is the plain sum.
        bounds: smallest and largest s.

    Attributes:
        log_scales: s of each task, one parameter (1,) each, never below float32.

    Raises:
        ConfigurationError: for bounds in the wrong order, or a start outside of them.
    """

    affine = True
    tensors_only = True
    scale = "linear"
    least_loss = 0.0

    def __init__(self, num_tasks: int, *, init: float = 0.0, bounds: tuple[float, float] = (-8.0, 8.0)) -> None:
        super().__init__(num_tasks)
        low, high = bounds
        if not low <= init <= high:
            raise ConfigurationError(
                f"IMTLL: expected `bounds`, the smaller one first, with `init` between them, found {bounds} and {init}."
            )
        self.bounds = (float(low), float(high))
        dtype = state_dtype()
        # One parameter per task, so that an absent task's can be left out of a step; (1,), since FSDP takes no scalars.
        self.log_scales = nn.ParameterList(
            nn.Parameter(torch.full((1,), float(init), dtype=dtype)) for _ in range(num_tasks)
        )

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the objective ()."""
        s = torch.cat([*self.log_scales.parameters()])
        return torch.where(present, torch.exp(s) * torch.where(present, losses, 0.0) - s, 0.0).sum()

    def owned(self) -> dict[int, list[nn.Parameter]]:
        """Return each task's s."""
        return {index: [s] for index, s in enumerate(self.log_scales)}

    @torch.no_grad()
    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Bring every s back between the bounds."""
        super().after_update(losses)
        for s in self.log_scales:
            s.clamp_(*self.bounds)
