"""Two losses of a point in the plane: a problem small enough to look at, and hard enough to tell balancers apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_lightning.ranges import Ranged

_FLOOR = 5e-6  # what the logarithms' arguments do not go below
_STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))


@dataclass(frozen=True)
class TwoTaskLandscape(Ranged):
    r"""The two-task problem of `Conflict-Averse Gradient Descent for Multi-task Learning
    <https://arxiv.org/abs/2110.14048>`_ (Liu, Liu, Jin, Stone and Liu, 2021), figure 1.

    With :math:`x = (x_1, x_2)`, :math:`c_1 = \max(\tanh(x_2 / 2), 0)`, :math:`c_2 = \max(\tanh(-x_2 / 2), 0)` and s the
    ``scale`` of the first loss,

    .. math::
        L_1 &= s\,(c_1 f_1 + c_2 q_1), & L_2 &= c_1 f_2 + c_2 q_2 \\
        f_1 &= \log \max(|(-x_1 - 7) / 2 + \tanh x_2|, \epsilon) + 6, &
        q_1 &= \bigl((7 - x_1)^2 + (x_2 + 8)^2 / 10\bigr) / 10 - 20 \\
        f_2 &= \log \max(|(-x_1 + 3) / 2 - \tanh x_2 + 2|, \epsilon) + 6, &
        q_2 &= \bigl((7 + x_1)^2 + (x_2 + 8)^2 / 10\bigr) / 10 - 20

    and :math:`\epsilon` = 5e-6. Above :math:`x_2 = 0` lies a plateau, cut by one steep narrow valley per task, around
    whose floors gradients are large; below it, two bowls with centres at :math:`x_1 = \pm 7`. The Pareto-optimal points
    have :math:`|x_1| \le 7` and :math:`x_2` between -8.43 and -8.35. At the scale 0.1, of `Multi-Task Learning as a
    Bargaining Game <https://arxiv.org/abs/2202.01017>`_ (Navon et al., 2022), the second loss outweighs the first.

    The losses are negative at the bottom: methods that take logarithms of losses, or learn noise levels, need
    ``losses - bounds``.

    >>> landscape = TwoTaskLandscape()
    >>> losses, gradients = landscape.differentiate(landscape.starts())
    >>> losses.shape, gradients.shape
    (torch.Size([5, 2]), torch.Size([5, 2, 2]))
    >>> losses[0]
    tensor([6.5524, 7.9008])

    Args:
        scale: s; 1 in the first paper, 0.1 in later ones.

    Raises:
        ConfigurationError: for a scale that is not positive and finite.
    """

    scale: float = 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """What the two losses never go below: -21 times their scales, as in the code of FAMO
        (github.com/Cranial-XIX/FAMO, 0a6ad06, ``experiments/toy/trainer.py``).
        """
        return -21 * self.scale, -21.0

    def starts(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the five points (5, 2) from which the literature's trajectories start."""
        return torch.tensor(_STARTS, dtype=dtype)

    def losses(self, points: Tensor) -> Tensor:
        """Map points (*, 2) to their losses (*, 2), differentiably."""
        if points.shape[-1:] != (2,):
            raise ValueError(f"Expected points of shape (*, 2), found {tuple(points.shape)}.")
        x1, x2 = points.unbind(-1)
        wave = torch.tanh(x2)
        upper, lower = torch.tanh(x2 / 2).clamp(min=0), torch.tanh(-x2 / 2).clamp(min=0)
        valleys = torch.stack([(-x1 - 7) / 2 + wave, (-x1 + 3) / 2 - wave + 2], -1).abs().clamp(min=_FLOOR).log() + 6
        across = torch.stack([7 - x1, 7 + x1], -1) ** 2
        bowls = (across + ((x2 + 8) ** 2 / 10).unsqueeze(-1)) / 10 - 20
        both = upper.unsqueeze(-1) * valleys + lower.unsqueeze(-1) * bowls
        return both * both.new_tensor([self.scale, 1.0])

    @torch.enable_grad()
    def differentiate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Map points (*, 2) to their losses (*, 2) and these losses' gradients (*, 2, 2), one row per loss."""
        copies = points.detach().unsqueeze(-2).expand(*points.shape[:-1], 2, 2).clone().requires_grad_()
        losses = self.losses(copies).diagonal(dim1=-2, dim2=-1)  # one copy of the point per loss: one backward for both
        (gradients,) = torch.autograd.grad(losses.sum(), copies)
        return losses.detach(), gradients
