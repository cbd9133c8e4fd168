"""Functions of a skewed target, in whose units a regression learns, and their inverses."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mtl_lightning.types import ConfigurationError

Transform: TypeAlias = Literal["log1p", "yeo_johnson"]
TRANSFORMS = ("log1p", "yeo_johnson")
_LARGEST = 80.0  # of the log of a number, beyond which float32 has none
_LEAST_POWER = 1e-6  # as near to 0 as a power is told from it
_RANGE, _HALVINGS = (-4.0, 6.0), 80


def checked_transform(transform: Transform | None, popart: float | None) -> Transform | None:
    """Return the transform of a regression.

    Raises:
        ConfigurationError: for one that is none, or beside statistics that move.
    """
    if transform is not None and transform not in TRANSFORMS:
        raise ConfigurationError(f"Regression: expected `transform` to be in {list(TRANSFORMS)}, found {transform!r}.")
    if transform is not None and popart is not None:
        raise ConfigurationError(
            "Regression: expected either `transform` or `popart`, found both. PopArt's last layer is linear in the "
            "target; use `standardize` with the transform."
        )
    return transform


def forward(transform: Transform, values: Tensor, powers: Tensor) -> Tensor:
    r"""Transform values (B, K).

    ``log1p`` is :math:`\log(1 + y)`; ``yeo_johnson`` is :math:`\text{sign}(y) ((1 + |y|)^p - 1) / p`, whose power p is
    :math:`\lambda` for y of at least 0 and :math:`2 - \lambda` below.

    Args:
        transform: which.
        values: y.
        powers: :math:`\lambda`, (K,).
    """
    if transform == "log1p":
        return torch.log1p(values)
    power, size = _power(values, powers), torch.log1p(values.abs())
    flat = power.abs() < _LEAST_POWER
    return values.sign() * torch.where(flat, size, torch.expm1(power * size) / torch.where(flat, 1.0, power))


def inverse(transform: Transform, values: Tensor, powers: Tensor) -> Tensor:
    """Return what :func:`forward` maps to values (B, K), or the nearest there is; always finite."""
    if transform == "log1p":
        return torch.expm1(values.clamp(max=_LARGEST))
    power = _power(values, powers)
    flat = power.abs() < _LEAST_POWER
    inside = torch.log1p((power * values.abs()).clamp(min=-1 + 1e-6)) / torch.where(flat, 1.0, power)
    return values.sign() * torch.expm1(torch.where(flat, values.abs(), inside).clamp(max=_LARGEST))


def _power(values: Tensor, powers: Tensor) -> Tensor:
    return torch.where(values >= 0, powers, 2 - powers).to(values.dtype)


def fitted_powers(values: Tensor, mask: Tensor) -> Tensor:
    r"""Return the :math:`\lambda` (K,) with which the transformed values are most likely normal: `A new family of power
    transformations <https://doi.org/10.1093/biomet/87.4.954>`_ (Yeo and Johnson, 2000), found between -4 and 6.

    Args:
        values: (N, K) float64.
        mask: (N, K) bool, which are labelled; 1, which changes nothing, for an output whose values are all equal.
    """
    return torch.stack([_fitted_power(column[known]) for column, known in zip(values.T, mask.T, strict=True)])


def _fitted_power(values: Tensor) -> Tensor:
    """Return the most likely power () of values (N,), by golden section: the likelihood has one maximum."""
    if not len(values) or bool(values.max() == values.min()):
        return torch.ones((), dtype=torch.float64)
    steep = (values.sign() * torch.log1p(values.abs())).mean()

    def likelihood(power: float) -> float:
        spread = forward("yeo_johnson", values, values.new_tensor(power)).var(correction=0)
        return float((power - 1) * steep - 0.5 * spread.log())

    low, high, share = *_RANGE, (5**0.5 - 1) / 2
    for _ in range(_HALVINGS):
        left, right = high - share * (high - low), low + share * (high - low)
        low, high = (low, right) if likelihood(left) > likelihood(right) else (left, high)
    return values.new_tensor((low + high) / 2)
