"""Loss weights that follow how fast each loss has fallen from one epoch to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.types import state_dtype

_LARGEST_RATE = 1e6  # beyond it the softmax is 0 or 1 anyway; keeps an overflow out of it


class DWA(Balancer):
    r"""Dynamic weight average of `End-to-End Multi-Task Learning with Attention <https://arxiv.org/abs/1803.10704>`_
    (Liu, Johns and Davison, 2019), equation 7.

    .. math::
        \sum_k \lambda_k L_k, \qquad \lambda_k = T \, \mathrm{softmax}_k(r_k / \tau), \qquad
        r_k = \bar L_k^{(t-1)} / \bar L_k^{(t-2)}

    where :math:`L_k` is task k's mean loss over labelled elements, :math:`\bar L_k^{(t)}` its mean over epoch t, T the
    number of tasks, :math:`\tau` the temperature. A task whose loss falls slowly weighs more. :math:`r_k` is 1 until
    two epochs are known. :meth:`after_epoch` is to be called with each epoch's means.

    What the paper leaves open:

    - A task's history is its own: an epoch that it is absent from leaves it as it is, so that its last two means may be
      older ones.
    - The softmax is over all T tasks. Where tasks are absent from an update, their terms are left out and the other
      weights stay as they are.
    - A mean that is 0 or not finite makes no rate: the rate is then 1, or the mean is not taken in.

    LibMTL's DWA is the same, except that it averages over batches instead of labelled elements.

    Args:
        num_tasks: T, the number of tasks.
        temperature: the larger, the more equal the weights; the paper uses 2.

    Attributes:
        older: (T,) each task's mean loss in the last epoch but one that it was present in.
        newer: (T,) the same of the last epoch.
        epochs: (T,) how many epochs it was present in.

    Raises:
        ConfigurationError: if the temperature is not positive.
    """

    affine = True
    scale = "linear"
    least_loss = 0.0
    epochs_to_start = 2
    older: Tensor
    newer: Tensor
    epochs: Tensor

    def __init__(self, num_tasks: int, *, temperature: float = 2.0) -> None:
        super().__init__(num_tasks)
        self.temperature = float(temperature)
        dtype = state_dtype()
        self.register_buffer("older", torch.zeros(num_tasks, dtype=dtype))
        self.register_buffer("newer", torch.zeros(num_tasks, dtype=dtype))
        self.register_buffer("epochs", torch.zeros(num_tasks, dtype=torch.int64))

    def epoch_weights(self) -> Tensor:
        """Return the weights (T,) of this epoch; their sum is T."""
        known = (self.epochs >= 2) & (self.older != 0)
        rates = torch.where(known, self.newer / torch.where(known, self.older, 1.0), 1.0)
        rates = rates.clamp(-_LARGEST_RATE, _LARGEST_RATE)
        return self.num_tasks * torch.softmax(rates / self.temperature, dim=0)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to their weighted sum ()."""
        return (self.epoch_weights() * torch.where(present, losses, 0.0)).sum()

    @torch.no_grad()
    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Take in an epoch's mean losses (T,) of the tasks in ``present`` (T,) bool."""
        super().after_epoch(losses, present)
        known = present & losses.isfinite()
        self.older.copy_(torch.where(known, self.newer, self.older))
        self.newer.copy_(torch.where(known, losses.to(self.newer), self.newer))
        self.epochs += known
