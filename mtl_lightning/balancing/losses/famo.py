"""Loss weights learned so that all losses fall at the same rate, from the losses alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.tools.adam import TaskAdam
from mtl_lightning.balancing.tools.masked import masked_log, masked_softmax
from mtl_lightning.types import ConfigurationError, state_dtype


class FAMO(Balancer):
    r"""`FAMO: Fast Adaptive Multitask Optimization <https://arxiv.org/abs/2306.03792>`_ (Liu, Feng, Stone and Liu,
    2023).

    .. math::
        c \sum_k z_k \log(L_k - b_k + \epsilon), \qquad z = \mathrm{softmax}(\xi), \qquad
        c = \Big( \sum_k \frac{z_k}{L_k - b_k + \epsilon} \Big)^{-1}

    over the tasks k that are present, with task k's mean loss over labelled elements :math:`L_k`, a lower bound
    :math:`b_k` of it, and c a constant to the gradient, which makes that a convex combination of the tasks' gradients.
    After each update the losses are computed once more on the same batch, and the logits :math:`\xi` make one step down

    .. math::
        \Big( \frac{\partial z}{\partial \xi} \Big)^{\!\top} \delta + \gamma \xi, \qquad
        \delta_k = \log(L_k^\text{before} - b_k + \epsilon) - \log(L_k^\text{after} - b_k + \epsilon)

    so that a task whose loss fell less than the others' weighs more in the next. The cost is a second forward.

    What to know before using it:

    - :meth:`objective` remembers the losses and who was present, for :meth:`after_update` to compare with; a call of
      the latter without a new objective before it changes nothing. What is remembered never outlives an update, and is
      not saved. An update that is skipped teaches nothing.
    - An absent task's logit and its state in Adam stay as they are; the softmax is over the tasks present.
    - The losses are those of the whole window and all processes, but the second ones see the window's batches at the
      new weights, where dropout may draw other masks.

    Departures: the step is one of Adam, with :math:`\gamma` as its weight decay, instead of a plain one, and
    :math:`\epsilon` is 1e-8, both as in the authors' code (github.com/Cranial-XIX/FAMO, 0a6ad06, ``famo.py``) and in
    LibMTL, whose default values are the same. The authors' code also clips the trunk's gradient to a length of 1; here
    that is ``gradient_clip``. A loss below its bound counts as being there.

    Args:
        num_tasks: T, the number of tasks.
        lr: the logits' learning rate; the paper uses 0.025.
        weight_decay: :math:`\gamma`, which pulls the logits to equal weights. The authors' code has 1e-2 by default in
            ``famo.py`` and 1e-5 in ``methods/weight_methods.py``; its scripts use 1e-3 for NYUv2, CelebA and QM9, 1e-2
            for Cityscapes. LibMTL's default is 1e-3 too.
        min_losses: b in the tasks' order; 0 each by default.

    Attributes:
        logits: (T,) :math:`\xi`, equal at first.

    Raises:
        ConfigurationError: for a learning rate or decay out of range, and for another number of bounds.
    """

    affine = False
    tensors_only = True
    scale = "linear"
    eps = 1e-8
    logits: Tensor
    bounds: Tensor
    last_losses: Tensor
    here: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        lr: float = 0.025,
        weight_decay: float = 1e-3,
        min_losses: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_tasks)
        bounds = [0.0] * num_tasks if min_losses is None else [float(bound) for bound in min_losses]
        if len(bounds) != num_tasks:
            raise ConfigurationError(
                f"FAMO: expected `min_losses` to be one number for each of {num_tasks} tasks, found {bounds}."
            )
        self.weight_decay, self.least_loss = float(weight_decay), bounds
        self.adam = TaskAdam(num_tasks, lr=lr)
        dtype = state_dtype()
        self.register_buffer("logits", torch.zeros(num_tasks, dtype=dtype))
        self.register_buffer("bounds", torch.tensor(bounds, dtype=dtype), persistent=False)
        self.register_buffer("last_losses", torch.zeros(num_tasks, dtype=dtype), persistent=False)
        self.register_buffer("here", torch.zeros(num_tasks, dtype=torch.bool), persistent=False)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) bool to the objective (), and remember both."""
        with torch.no_grad():
            self.last_losses.copy_(losses)
            self.here.copy_(present)
        excess = losses - self.bounds
        weights = masked_softmax(self.logits, present)
        above = torch.where(present, excess.detach(), 1.0).clamp(min=0.0) + self.eps
        total = (weights / above).sum()
        factor = torch.where(total > 0, 1 / total, 0.0)
        return (factor * weights * masked_log(excess, present, self.eps)).sum()

    @torch.no_grad()
    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Move the logits by how much each loss changed in this update."""
        super().after_update(losses)
        after = losses().to(self.last_losses)
        moved = self.here & self.last_losses.isfinite() & after.isfinite()
        fall = masked_log(self.last_losses - self.bounds, moved, self.eps) - masked_log(
            after - self.bounds, moved, self.eps
        )
        weights = masked_softmax(self.logits, moved)
        slope = weights * (fall - (weights * fall).sum())
        self.logits += self.adam.step(slope + self.weight_decay * self.logits, moved)
        self.here.zero_()
