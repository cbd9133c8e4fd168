"""PopArt: targets standardised with moving statistics, while predictions stay what they were."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mtl_lightning.types import ConfigurationError

SMALLEST, LARGEST = 1e-4, 1e6
"""The papers' bounds of the standard deviation."""


class Statistics(NamedTuple):
    """Mean and variance, (K,) each, of the values that K outputs are to predict."""

    mean: Tensor
    variance: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviation (K,) within the papers' bounds."""
        return self.variance.clamp(min=0).sqrt().clamp(SMALLEST, LARGEST)


def sums_about(mean: Tensor, values: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return (3, K): the number of labelled values of each output, and the sums of their differences to ``mean`` and of
    these differences' squares. Sums of several batches add up.

    Args:
        mean: (K,), the same for every batch.
        values: (B, K), anything where there is no label.
        mask: (B, K) bool.
        weight: (B,) of the rows, 1 each by default.
    """
    number = mask.to(mean.dtype) if weight is None else mask * weight.to(mean.dtype).unsqueeze(1)
    away = torch.where(mask, values - mean, 0.0).to(mean.dtype)
    return torch.stack([number, number * away, number * away.square()]).sum(1)


def followed(old: Statistics, sums: Tensor, rate: float) -> Statistics:
    r"""Return the statistics moved towards those of a window: equation 2 of van Hasselt et al. (see
    :class:`~mtl_lightning.tasks.Regression`).

    .. math:: \mu' = (1 - \beta) \mu + \beta \bar y, \qquad \nu' = (1 - \beta) \nu + \beta \overline{y^2}

    for the mean and the second moment :math:`\nu = \sigma^2 + \mu^2`; here written for the variance, and for sums about
    the old mean, which is the same and does not subtract numbers much larger than their difference.

    Args:
        old: the statistics so far.
        sums: (3, K) of :func:`sums_about` the old mean; an output without a value in them stays as it is.
        rate: :math:`\beta`.
    """
    number, first, second = sums.to(old.mean.dtype)
    seen = number > 0
    shift, square = (rate * total / torch.where(seen, number, 1.0) for total in (first, second))
    variance = (1 - rate) * old.variance + square - shift.square()
    return Statistics(
        torch.where(seen, old.mean + shift, old.mean), torch.where(seen, variance.clamp(min=0), old.variance)
    )


@torch.no_grad()
def preserve(weight: Tensor, bias: Tensor, old: Statistics, new: Statistics) -> None:
    r"""Rewrite an affine map, in place, so that its outputs in the target's units stay the same: equation 6 there.

    .. math:: W' = W \sigma / \sigma', \qquad b' = (\sigma b + \mu - \mu') / \sigma'

    Args:
        weight: (K, D, *) of a linear map or a convolution.
        bias: (K,).
        old: the statistics with which the outputs have been read so far.
        new: those with which they will be read.
    """
    ratio = (old.std / new.std).to(weight.device)
    shift = ((old.mean - new.mean) / new.std).to(bias.device)
    weight.copy_(weight * ratio.reshape(-1, *(1,) * (weight.dim() - 1)))
    bias.copy_(bias * ratio + shift)


def checked_rate(popart: float | None, standardize: bool) -> float | None:
    """Return the rate of a regression; refuse one whose target something else standardises."""
    if popart is not None and standardize:
        raise ConfigurationError(
            "Regression: expected either `standardize` or `popart`, found both. Fitted statistics suit data that is "
            "known and stays the same, moving ones any other."
        )
    return popart
