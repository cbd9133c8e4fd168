"""The likelihood of a normal distribution whose mean and scale are both outputs, over the most that it can be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks.ordinal import inverse_softplus
from mtl_lightning.tasks.trivial import means


def scale_of(output: Tensor, least: float) -> Tensor:
    """Map outputs (B,) to standard deviations (B,) above ``least``."""
    return F.softplus(output) + least


def over_the_floor(residual: Tensor, scale: Tensor, least: float) -> Tensor:
    r"""Return the negative log-likelihood of each residual, less the smallest that it can be: at least 0.

    .. math:: \log(\sigma / \sigma_{min}) + r^2 / (2 \sigma^2)

    Args:
        residual: r, (B,).
        scale: :math:`\sigma`, (B,), above ``least``.
        least: :math:`\sigma_{min}`.
    """
    return torch.log(scale / least) + 0.5 * (residual / scale).square()


def moments(values: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation () of values (N, 1) where the mask is; 0 of none and of a constant."""
    mean = means(values, mask, weight)
    return mean[0], means((values.to(mean.dtype) - mean).square(), mask, weight).sqrt()[0]


def output_of_scale(scale: Tensor, least: float) -> Tensor:
    """Return the output () whose standard deviation this is, or the least one."""
    return inverse_softplus((scale - least).clamp(min=1e-3 * least))
