"""What the tests of uncertainty weighting share: likelihoods, and ways to set and read s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.tasks.likelihoods import BERNOULLI, GAUSSIAN, HUBER, LAPLACE, SOFTMAX, of_reduction
from mtl_lightning.types import Likelihood

Regularizer = Literal["kendall", "liebel_koerner"]
LIKELIHOODS = {
    "gaussian": GAUSSIAN,
    "laplace": LAPLACE,
    "huber": HUBER,
    "softmax": SOFTMAX,
    "bernoulli": BERNOULLI,
    "gaussian_sum_of_5": of_reduction(GAUSSIAN, 5, "sum"),
    "laplace_sum_of_3": of_reduction(LAPLACE, 3, "sum"),
    "own": Likelihood(0.7, 0.2, "log_var"),
}
each_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)
each_regularizer = pytest.mark.parametrize("regularizer", ["kendall", "liebel_koerner"])


def make(likelihoods: Mapping[str, Likelihood], **options: Any) -> UncertaintyWeighting:
    balancer = UncertaintyWeighting(len(likelihoods), **options).double()
    balancer.bind(likelihoods)
    return balancer


def set_s(balancer: UncertaintyWeighting, values: list[float]) -> None:
    with torch.no_grad():
        for s, value in zip(balancer.log_vars, values, strict=True):
            s.fill_(value)


def s_of(balancer: UncertaintyWeighting) -> Tensor:
    return torch.cat([s.detach() for s in balancer.log_vars])


def has_started(balancer: UncertaintyWeighting) -> bool:
    return balancer.affine
