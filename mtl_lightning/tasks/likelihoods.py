"""Which uncertainty term fits which loss, and what ``reduction`` does to it.

A term is ``a * exp(-s) * L + b * s``, where L is the mean of the losses over labelled elements
(:class:`~mtl_lightning.types.Likelihood`). Its minimum over s is at ``exp(s) = a * L / b``, where the loss has the
weight ``b / L`` whatever a is: a fixes what s means, b how much the task counts beside the others.

All but the Gaussian and the Laplace terms are approximations:

- ``DEVIANCE``: quasi-likelihood, exact as far as the saddlepoint approximation of counts is.
- ``HUBER``: the square in its core only, so that s is a variance as long as most residuals are below delta.
- ``SOFTMAX`` and ``BERNOULLI``: ``exp(s)`` is the temperature of the softmax, in the approximation of equation 10 of
  `Multi-Task Learning Using Uncertainty to Weigh Losses <https://arxiv.org/abs/1705.07115>`_ (Kendall et al., 2018).
  It is no noise level that compares with a regression's.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from mtl_lightning.types import ConfigurationError, Likelihood

Reduction: TypeAlias = Literal["mean", "sum"]

GAUSSIAN = Likelihood(0.5, 0.5, "log_var")
"""Squared error r^2: ``exp(s)`` is the variance of the noise, at its optimum the mean squared error."""

LAPLACE = Likelihood(1.0, 1.0, "log_scale")
"""Absolute error |r|: ``exp(s)`` is the scale of the noise, at its optimum the mean absolute error."""

ASYMMETRIC_LAPLACE = Likelihood(1.0, 1.0, "log_scale")
"""Pinball loss: ``exp(s)`` is the scale of the noise, at its optimum the mean loss."""

HUBER = Likelihood(1.0, 0.5, "log_var")
"""Huber's loss, r^2 / 2 in its core: the half that the Gaussian term has in ``a`` is in the loss already."""

DEVIANCE = Likelihood(0.5, 0.5, "log_var")
"""Unit deviance of a Poisson distribution: ``exp(s)`` is the dispersion, how much wider than that counts scatter."""

TEMPERATURE = Likelihood(1.0, 0.5, "log_var")
"""A likelihood with noise levels of its own: s lets the task's weight follow its loss, and says nothing of noise."""

SOFTMAX = Likelihood(1.0, 0.5, "log_var")
"""Cross-entropy CE of a softmax: at its optimum ``exp(s)`` is 2 CE."""

BERNOULLI = Likelihood(1.0, 0.5, "log_var")
"""Binary cross-entropy: the softmax of two classes."""


def of_reduction(likelihood: Likelihood, elements: int, reduction: Reduction) -> Likelihood:
    """Return the term of a task that has ``elements`` elements a row.

    ``"mean"`` counts the task as one, however many elements it has. ``"sum"`` counts it once per element, as the joint
    likelihood of all elements does: the whole term is multiplied by their number D. A sum of squared errors SSE and
    its mean L = SSE / D make the two ways to write it equal, ``exp(-s) / 2 * SSE + D / 2 * s = D * (exp(-s) / 2 * L +
    s / 2)``. Multiplying ``b`` alone, while L stays the mean, would put the optimum at L / D, which is no variance.

    Raises:
        ConfigurationError: for another reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ConfigurationError(f"`reduction`: expected 'mean' or 'sum' over a row's elements, found {reduction!r}.")
    factor = elements if reduction == "sum" else 1
    return Likelihood(likelihood.a * factor, likelihood.b * factor, likelihood.scale)
