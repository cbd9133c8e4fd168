"""Regression of a number with a noise level of its own in each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.gaussian import moments, output_of_scale, over_the_floor, scale_of
from mtl_lightning.tasks.gaussian_metrics import (
    FirstAbsoluteError,
    FirstRootMeanSquaredError,
    NegativeLogLikelihood,
    NormalCoverage,
)
from mtl_lightning.tasks.likelihoods import TEMPERATURE
from mtl_lightning.tasks.options import single_label
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.types import TargetSpec


class HeteroscedasticRegression(Regression):
    r"""A number (B,) per row with its standard deviation; targets are floats, ``nan`` where a label is missing.

    The outputs are the mean and, by a softplus, the standard deviation of a normal distribution: `Estimating the mean
    and variance of the target probability distribution <https://doi.org/10.1109/ICNN.1994.374138>`_ (Nix and Weigend,
    1994). Its negative log-likelihood has no least value as deviations go to 0, so these stay above ``least_std``, and
    the loss is the likelihood less its floor there,

    .. math:: \log(\sigma / \sigma_{min}) + (y - \mu)^2 / (2 \sigma^2)

    which is at least 0. A noise level is in the outputs already, so that there is none to be learned beside it: the
    uncertainty term ``exp(-s) * L + s / 2`` only lets the weight of the task follow its loss, ``exp(s)`` is a
    temperature, and sigma is not given in the target's units.

    Where the mean is hard to learn, rows with a large deviation count little and are learned late. ``beta`` multiplies
    each row's gradient by :math:`\sigma^{2 \beta}`, a constant there: `On the Pitfalls of Heteroscedastic Uncertainty
    Estimation with Probabilistic Neural Networks <https://arxiv.org/abs/2203.09168>`_ (Seitzer et al., 2022), who use
    0.5; with 1 the mean has the gradient of a squared error. The paper multiplies the loss; here its value stays the
    likelihood, so that losses compare, and only the gradient changes.

    With ``standardize`` the loss and :meth:`estimate` are in standardised units, as in
    :class:`~mtl_lightning.tasks.Regression`; predictions and metrics are in the target's own units.

    Predictions: ``value`` (B,), the mean, and ``std`` (B,), in the target's units.

    Metrics: ``mae``, ``rmse``, in the target's units, and ``nll``, minus the log of the density in these units, lower
    is better; ``coverage``, the share of targets within 1.645 standard deviations, which should be 0.9.

    Args:
        spec: what the data says; its shape is ``()``.
        units: of the target, in words, where no spec says them.
        beta: between 0, the likelihood, and 1.
        least_std: the smallest standard deviation, in the units of the loss.
        standardize: fit the mean and the standard deviation of the target with :meth:`fit_target`.
        metrics: metrics by name, in place of the default ones; they are fed means and deviations (N, 2), and targets.

    Raises:
        ConfigurationError: for another spec, or options out of range.
    """

    calibrated_by = ()

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        units: str | None = None,
        beta: float = 0.0,
        least_std: float = 0.01,
        standardize: bool = False,
        metrics: MetricFactories | None = None,
    ) -> None:
        if isinstance(spec, TargetSpec):
            single_label(spec, "HeteroscedasticRegression")
        super().__init__(spec, units=units, standardize=standardize, metrics=metrics)
        self.columns, self.output_size, self.estimate_size = None, 2, 2
        self.likelihood = TEMPERATURE
        self.beta, self.least_std = beta, least_std

    @property
    def target_scale(self) -> float | None:
        """None: sigma is a temperature."""
        return None

    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the negative log-likelihood of each row over its floor, in units of the loss."""
        self.expect_fitted()
        if self.standardize:
            mean, std = self._statistics(elements.dtype)
            elements = (elements - mean) / std
        scale = scale_of(output[:, 1], self.least_std)
        found = over_the_floor(elements.to(output.dtype) - output[:, 0], scale, self.least_std)
        if not self.beta:
            return found
        factor = scale.detach().pow(2 * self.beta)
        return found.detach() + factor * (found - found.detach())

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the mean and the standard deviation (2,) of the labels, in the target's units."""
        return torch.stack(moments(*self.columns_of(rows), weight))

    def trivial_output(self, prediction: Tensor) -> Tensor:
        """Map them to the outputs (2,)."""
        mean, std = self._statistics(prediction.dtype)
        number = (prediction[:1] - mean) / std
        return torch.cat([number, output_of_scale(prediction[1:] / std, self.least_std)])

    def predict(self, output: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # a number in the base
        """Map outputs (B, 2) to means (B,) and standard deviations (B,), in the target's units."""
        value, std = self.for_metrics(output).unbind(1)
        return {"value": value, "std": std}

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see means and standard deviations (B, 2)."""
        self.expect_fitted()
        found = self.precise(output)
        found = found.to(torch.float64) if self._precise else found
        mean, std = self._statistics(found.dtype)
        return torch.stack([found[:, 0] * std + mean, scale_of(found[:, 1], self.least_std) * std], 1)

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are a number and its standard deviation."""
        return {"form": "fields", "fields": {"value": [], "std": []}, "units": self.spec.units}

    def default_metrics(self) -> MetricFactories:
        """Return the errors of the mean, the likelihood, and the coverage."""
        errors = {"mae": FirstAbsoluteError, "rmse": FirstRootMeanSquaredError}
        return {**errors, "nll": NegativeLogLikelihood, "coverage": NormalCoverage}
