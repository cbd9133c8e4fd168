"""A smooth maximum of the losses' logarithms, relative to what they were after a warm-up."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.tools.masked import masked_log
from mtl_lightning.types import state_dtype


class STCH(Balancer):
    r"""`Smooth Tchebycheff Scalarization for Multi-Objective Optimization <https://arxiv.org/abs/2402.19078>`_ (Lin,
    Zhang, Yang, Liu, Wang and Zhang, 2024), its recipe for multi-task learning.

    .. math:: P \mu \log \sum_k \exp\Big( \frac{1}{\mu} \log \frac{L_k}{z_k} \Big)

    over the P tasks k that are present, with task k's mean loss over labelled elements :math:`L_k`, its nadir
    :math:`z_k` and a smoothing :math:`\mu`: the smaller, the closer to P times the largest logarithm. In the first
    ``warmup_epochs`` epochs, and in one more, the objective is :math:`\sum_k \log L_k` instead; the mean loss of that
    one more is the nadir. :meth:`after_epoch` is to be called with each epoch's means.

    The weights, in terms of the logarithms, sum to P in either phase. A factor that all losses have in common makes no
    difference.

    What the recipe leaves open, and departures from it:

    - A task that is absent from the epoch of the nadir takes its own from the first later one that it is present in;
      till then it contributes :math:`\log L_k`, beside the smooth maximum of the others.
    - ``eps`` is added in the logarithms, so that a loss of 0 has a finite slope; LibMTL adds 1e-20 there.
    - LibMTL takes means over batches instead of labelled elements, and loses the nadir in a checkpoint.

    Args:
        num_tasks: T, the number of tasks.
        mu: the smoothing; the paper tries 0.01 to 1, LibMTL's default is 1.
        warmup_epochs: epochs before that of the nadir; LibMTL's default.
        eps: what is added to each loss in its logarithm.

    Attributes:
        nadir: (T,) z of each task, 1 until it is known.
        known: (T,) bool, whether it is.
        epochs: () how many epochs have passed.

    Raises:
        ConfigurationError: for numbers out of range.
    """

    affine = False
    scale = "invariant"
    least_loss = 0.0
    nadir: Tensor
    known: Tensor
    epochs: Tensor

    def __init__(self, num_tasks: int, *, mu: float = 1.0, warmup_epochs: int = 4, eps: float = 1e-8) -> None:
        super().__init__(num_tasks)
        self.mu, self.warmup_epochs, self.eps = float(mu), int(warmup_epochs), float(eps)
        self.epochs_to_start = self.warmup_epochs + 1
        dtype = state_dtype()
        self.register_buffer("nadir", torch.ones(num_tasks, dtype=dtype))
        self.register_buffer("known", torch.zeros(num_tasks, dtype=torch.bool))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the objective ()."""
        logs = masked_log(losses, present, self.eps)
        started = present & self.known
        relative = logs - masked_log(self.nadir, started, self.eps)
        warming_up = torch.where(started, 0.0, logs).sum()
        return warming_up + started.sum() * smooth_maximum(relative, started, self.mu)

    @torch.no_grad()
    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Count the epoch; take its mean losses (T,) as the nadir of the tasks that are due and ``present`` (T,)."""
        super().after_epoch(losses, present)
        self.epochs += 1
        new = present & losses.isfinite() & ~self.known & (self.epochs > self.warmup_epochs)
        self.nadir.copy_(torch.where(new, losses.to(self.nadir), self.nadir))
        self.known |= new


def smooth_maximum(values: Tensor, chosen: Tensor, mu: float) -> Tensor:
    r"""Map values (T,) to :math:`\mu \log \sum_k \exp(x_k / \mu)` () over those in ``chosen`` (T,) bool; 0 of none.

    Differences to the largest value keep small mu from overflowing.
    """
    largest = torch.where(chosen, values.detach(), -torch.inf).max()
    largest = torch.where(chosen.any(), largest, 0.0)
    terms = torch.exp(torch.where(chosen, values - largest, 0.0) / mu)
    total = torch.where(chosen, terms, 0.0).sum()
    return mu * torch.log(torch.where(chosen.any(), total, 1.0)) + largest
