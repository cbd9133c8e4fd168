"""Adam for one number per task, for weights that a balancer learns by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl_lightning.ranges import Ranged
from mtl_lightning.types import state_dtype


class TaskAdam(Ranged, nn.Module):
    r"""The steps of `Adam: A Method for Stochastic Optimization <https://arxiv.org/abs/1412.6980>`_ (Kingma and Ba,
    2015), algorithm 1, for T numbers, some of which may have no gradient.

    Its state is buffers that exist from the start, so that a checkpoint holds it; it counts the steps of each task
    apart, so that an absent task's moments stay as they are and its next step is the one it would have made.

    Args:
        num_tasks: T.
        lr: the learning rate: about how far a number moves per step.
        betas: decay of the first and of the second moment.
        eps: what keeps a gradient of 0 from being divided by 0.

    Raises:
        ConfigurationError: for a learning rate that is not positive, or a decay outside of [0, 1).
    """

    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(
        self, num_tasks: int, *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__()
        self.lr, self.betas, self.eps = float(lr), (float(betas[0]), float(betas[1])), float(eps)
        dtype = state_dtype()
        for name in ("first", "second", "steps"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=dtype))

    @torch.no_grad()
    def step(self, gradients: Tensor, moved: Tensor) -> Tensor:
        """Take in gradients (T,) of the tasks in ``moved`` (T,) bool; return what to add to the numbers (T,).

        It is 0 for the other tasks, whose state stays as it is.
        """
        gradients = gradients.to(self.first.dtype)
        decay, decay_of_squares = self.betas
        self.first.copy_(torch.where(moved, self.first.lerp(gradients, 1 - decay), self.first))
        self.second.copy_(torch.where(moved, self.second.lerp(gradients.square(), 1 - decay_of_squares), self.second))
        self.steps += moved
        mean = self.first / (1 - decay**self.steps)
        size = (self.second / (1 - decay_of_squares**self.steps)).sqrt() + self.eps
        return torch.where(moved, -self.lr * mean / size, 0.0)
