"""Metrics of counts, and of other numbers that are never negative, that take sample weights."""

from __future__ import annotations

import torch
from torch import Tensor

from mtl_lightning.tasks.weighted import AbsoluteError


class PoissonDeviance(AbsoluteError):  # noqa: N818  # no exception
    r"""The mean unit deviance of the Poisson distribution: ``mean_poisson_deviance`` of scikit-learn.

    .. math:: d = 2 \, (y \log(y / \mu) - y + \mu)

    for a count y and its expectation :math:`\mu`, which counts as at least 1.2e-38. About 1 where counts scatter as a
    Poisson distribution says, and are not few.
    """

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the deviance of each count (N,)."""
        mean, count = prediction.clamp(min=torch.finfo(torch.float32).tiny), target.to(prediction.dtype)
        return 2 * (torch.xlogy(count, count) - torch.xlogy(count, mean) - count + mean)
