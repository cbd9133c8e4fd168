"""Amounts that are mostly zero, such as what a customer spends."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.gaussian import moments, output_of_scale, over_the_floor, scale_of
from mtl_lightning.tasks.gaussian_metrics import FirstAbsoluteError, FirstRootMeanSquaredError, PositiveAUROC
from mtl_lightning.tasks.likelihoods import TEMPERATURE
from mtl_lightning.tasks.options import merged_spec, single_label
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.tasks.rows import RowTask
from mtl_lightning.tasks.trivial import shares
from mtl_lightning.types import TargetSpec

_LARGEST = 80.0  # of the log of a predicted amount, beyond which float32 has no numbers


class ZeroInflatedLogNormal(RowTask):
    r"""An amount (B,) of at least 0 per row, often exactly 0, whose logarithm is normal where it is not: `A Deep
    Probabilistic Model for Customer Lifetime Value Prediction <https://arxiv.org/abs/1912.07753>`_ (Wang et al., 2019).

    Three outputs: the logit of the probability p of an amount, the mean :math:`\mu` of its logarithm and, by a
    softplus, the standard deviation :math:`\sigma` of that. The loss is equation 3 there,

    .. math:: -[y = 0] \log(1 - p) - [y > 0] \left( \log p
        - \log(\sigma / \sigma_{min}) - (\log y - \mu)^2 / (2 \sigma^2) \right)

    without what depends on y alone, and less the floor of the normal part, since deviations stay above ``least_std``:
    it is at least 0. The noise level is an output already, so that none is learned beside it: the uncertainty term
    ``exp(-s) * L + s / 2`` only lets the weight of the task follow its loss, and ``exp(s)`` is a temperature.

    With ``standardize`` logarithms are standardised: those of the training split's amounts above 0 have mean 0 and
    standard deviation 1.

    Predictions, in the target's units: ``value`` (B,), the expected amount :math:`p \exp(\mu + \sigma^2 / 2)`, and
    ``probability`` (B,), p.

    Metrics: ``mae`` and ``rmse`` of the expected amount, lower is better; ``auroc`` of amounts above 0 against zeros,
    higher is better. The paper's normalised Gini coefficient is not among them.

    Args:
        spec: what the data says; its shape is ``()``.
        units: of the amount, in words, where no spec says them.
        least_std: the smallest standard deviation of logarithms, in the units of the loss.
        standardize: fit the mean and the standard deviation of the logarithms with :meth:`fit_target`.
        metrics: metrics by name, in place of the default ones; they are fed values and probabilities (N, 2), and
            targets.

    Raises:
        ConfigurationError: for another spec, or options out of range.
    """

    dtypes = "a floating-point dtype"
    values = "finite amounts of at least 0, or nan for missing"
    target_kind = "number"

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        units: str | None = None,
        least_std: float = 0.01,
        standardize: bool = False,
        metrics: MetricFactories | None = None,
    ) -> None:
        spec = merged_spec("ZeroInflatedLogNormal", spec, units=units)
        single_label(spec, "ZeroInflatedLogNormal")
        super().__init__(spec, columns=None, output_size=3, likelihood=TEMPERATURE, metrics=metrics)
        self.logarithm = Regression(TargetSpec(), standardize=standardize)
        self.least_std = least_std

    # ----------------------------------------------------------------------------------------------------- the target
    def accepts(self, dtype: torch.dtype) -> bool:
        """Floats only."""
        return dtype.is_floating_point

    def is_labelled(self, elements: Tensor) -> Tensor:
        """Everything but ``nan`` is a label."""
        return ~elements.isnan()

    def is_valid(self, elements: Tensor) -> Tensor:
        """Amounts are finite and not negative."""
        return elements.isnan() | ((elements >= 0) & elements.isfinite())

    def fit_target(self, target: Tensor) -> None:
        """Fit the mean and the standard deviation of the logarithms of amounts above 0.

        Args:
            target: the whole training split's, (N,) or (N, 1).

        Raises:
            TargetError: if the target is not valid.
        """
        if not self.fitted:
            self.check(target)
            self.logarithm.fit_target(self._logarithms(self.elements(target)))

    @property
    def fitted(self) -> bool:
        """Whether the statistics are fitted, or not needed."""
        return self.logarithm.fitted

    @property
    def target_scale(self) -> float | None:
        """None: sigma is a temperature."""
        return None

    @staticmethod
    def _logarithms(elements: Tensor) -> Tensor:
        """Return the logarithms (B,) of amounts, nan of 0."""
        return torch.where(elements > 0, elements, torch.nan).log()

    # ----------------------------------------------------------------------------------------------------- the output
    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return what each amount's negative log-likelihood is over its floor."""
        self.logarithm.expect_fitted()
        some = elements > 0
        mean, std = self.logarithm._statistics(elements.dtype)
        wanted = ((torch.where(some, elements, 1.0).log() - mean) / std).to(output.dtype)
        chance = F.binary_cross_entropy_with_logits(output[:, 0], some.to(output.dtype), reduction="none")
        size = over_the_floor(wanted - output[:, 1], scale_of(output[:, 2], self.least_std), self.least_std)
        return chance + torch.where(some, size, 0.0)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the outputs (3,) of the share of amounts above 0, and of the moments of their logarithms."""
        values, mask = self.columns_of(rows)
        some = mask & (values > 0)
        mean, std = self.logarithm._statistics(torch.float64 if values.device.type != "mps" else torch.float32)
        average, deviation = moments(torch.where(some, values, 1.0).log(), some, weight)
        scale = output_of_scale(deviation / std[0], self.least_std)
        chance = shares(some.to(values.dtype), mask, weight)[0].logit()
        return torch.stack([chance, (average - mean[0]) / std[0], scale])

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Map outputs (B, 3) to expected amounts (B,) in the target's units, and the probabilities (B,) of any."""
        value, probability = self.for_metrics(output).unbind(1)
        return {"value": value, "probability": probability}

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see values and probabilities (B, 2)."""
        self.logarithm.expect_fitted()
        found = self.precise(output)
        mean, std = (one.to(found.dtype) for one in self.logarithm._statistics(found.dtype))
        spread = scale_of(found[:, 2], self.least_std) * std
        log_amount = found[:, 1] * std + mean + 0.5 * spread.square()
        probability = found[:, 0].sigmoid()
        return torch.stack([probability * log_amount.clamp(max=_LARGEST).exp(), probability], 1)

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, 3) to themselves: a logit, and a mean and what is a deviation in the units of the loss."""
        return self.outputs(output)

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are an amount and its probability."""
        return {"form": "fields", "fields": {"value": [], "probability": []}, "units": self.spec.units}

    def default_metrics(self) -> MetricFactories:
        """Return the errors of the expected amount, and how well amounts and zeros are told apart."""
        return {"mae": FirstAbsoluteError, "rmse": FirstRootMeanSquaredError, "auroc": PositiveAUROC}
