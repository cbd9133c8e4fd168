"""Any method's weights, smoothed over updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mtl_lightning.balancing.gradients.mgda import MGDA
from mtl_lightning.balancing.rows import GramianBalancer
from mtl_lightning.types import ConfigurationError, Likelihood, state_dtype


class CRMOGM(GramianBalancer):
    r"""Correlation-reduced multi-objective gradient manipulation: `On the Convergence of Stochastic Multi-Objective
    Gradient Manipulation and Beyond <https://proceedings.neurips.cc/paper_files/paper/2022/hash/
    f91bd64a3620aad8e70a27ad9cb3ca57-Abstract-Conference.html>`_ (Zhou, Zhang, Jiang, Zhong, Gu and Zhu, 2022),
    algorithm 1.

    .. math:: w \leftarrow \alpha w + (1 - \alpha) \hat w, \qquad d = \sum_k w_k g_k

    where :math:`\hat w` are the weights that another method finds for a batch's gradients. Both come from the same
    batch, and so are correlated, which keeps such methods from converging; smoothed weights are less so::

        CRMOGM(3, balancer=partial(CAGrad, c=0.5))

    A task's weight starts as the first one found for it. Departures: :math:`\alpha` is constant, where the paper lets
    it grow as the learning rate falls. The weights of absent tasks stay. As the method's weights depend on who is
    present, so does their scale: the present tasks' smoothed weights are used as they are.

    What is done with losses, heads and the gradient's scale, and at which level gradients are taken, are options of the
    method inside: its weights are smoothed as it rescales them.

    Args:
        num_tasks: T, the number of tasks.
        balancer: makes the method from T: one of those that weigh gradients by their inner products.
        alpha: how much of the last weights stays, in [0, 1); the default is torchjd's. With 0 the method is as it was.

    Raises:
        ConfigurationError: for a number out of its range, or another kind of method.

    Attributes:
        scale: "linear" if the method's is, else "none".
    """

    solves_on_host = True

    smoothed: Tensor
    seen: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        balancer: Callable[[int], GramianBalancer] = MGDA,
        alpha: float = 0.9,
    ) -> None:
        inner = balancer(num_tasks)
        if not isinstance(inner, GramianBalancer) or not inner.gramian or inner.num_tasks != num_tasks:
            raise ConfigurationError(
                f"CRMOGM: expected as `balancer` one for {num_tasks} tasks that weighs gradients by their inner "
                f"products, such as MGDA, found {inner!r}."
            )
        super().__init__(num_tasks, weight_heads=inner.weight_heads)
        self.level = inner.level
        self.balancer, self.alpha = inner, alpha
        self.follows_epochs = inner.follows_epochs
        self.least_loss, self.epochs_to_start = inner.least_loss, inner.epochs_to_start
        self.scale = "linear" if inner.scale == "linear" else "none"
        dtype = state_dtype()
        self.register_buffer("smoothed", torch.zeros(num_tasks, dtype=dtype))
        self.register_buffer("seen", torch.zeros(num_tasks, dtype=torch.bool))

    @torch.no_grad()
    def task_weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map inner products (P, P), losses (P,) and present (T,) to the smoothed weights (P,)."""
        return self._smooth(self.balancer.task_weights(gramian, losses, present), present)

    def weights(self, gramian: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Map inner products (P, P), losses (P,) and present (T,) to smoothed weights (P,), before any rescaling."""
        return self._smooth(self.balancer.weights(gramian, losses, present), present)

    def _smooth(self, found: Tensor, present: Tensor) -> Tensor:
        """Smooth and return the present tasks' weights (P,)."""
        number = len(found)
        last, seen = self.here(self.smoothed, present, number), self.here(self.seen, present, number)
        smoothed = torch.where(seen, self.alpha * last.to(found.dtype) + (1 - self.alpha) * found, found)
        self.keep(self.smoothed, smoothed, present)
        self.keep(self.seen, torch.ones_like(seen), present)
        return smoothed

    # ------------------------------------------------------------------------------ all else is the method's business
    def bind(self, likelihoods: Mapping[str, Likelihood]) -> None:
        """Pass the tasks' names and likelihoods on."""
        super().bind(likelihoods)
        self.balancer.bind(likelihoods)

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Map losses (T,) and present (T,) to the method's objective ()."""
        return self.balancer.objective(losses, present)

    def sums_losses(self) -> bool:
        """Whether the method's objective is the plain sum."""
        return self.balancer.sums_losses()

    def owned(self) -> dict[int, list[nn.Parameter]]:
        """Return the method's parameters of each task."""
        return self.balancer.owned()

    def sigmas(self) -> Tensor | None:
        """Return the method's noise scales (T,)."""
        return self.balancer.sigmas()

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Do what the method does after an optimizer step."""
        self.balancer.after_update(losses)

    def after_epoch(self, losses: Tensor, present: Tensor) -> None:
        """Do what the method does after an epoch."""
        self.balancer.after_epoch(losses, present)
