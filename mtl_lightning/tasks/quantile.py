"""Several quantiles of a number per row, which cannot cross."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.likelihoods import ASYMMETRIC_LAPLACE
from mtl_lightning.tasks.options import single_label
from mtl_lightning.tasks.ordinal import inverse_softplus
from mtl_lightning.tasks.quantile_metrics import PinballError, QuantileCoverage, QuantileError, pinball
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.tasks.trivial import quantiles
from mtl_lightning.types import ConfigurationError, TargetSpec


class Quantile(Regression):
    r"""Quantiles of a number (B,) per row, one for each level; targets are floats, ``nan`` where a label is missing.

    The loss is the pinball loss of `Regression Quantiles <https://doi.org/10.2307/1913643>`_ (Koenker and Bassett,
    1978), the mean over the levels :math:`\tau` of

    .. math:: \rho_\tau(r) = \max(\tau r, (\tau - 1) r), \qquad r = y - q_\tau

    whose expectation is least where a share :math:`\tau` of the targets is below :math:`q_\tau`. That of the median
    alone is half of ``Regression(loss="l1")``. The uncertainty term is that of the asymmetric Laplace distribution,
    ``exp(-t) * L + t``: ``exp(t)`` is its scale, at its optimum the mean pinball loss, and sigma ``sqrt(2) * exp(t)``,
    as of a Laplace distribution.

    One output is the quantile whose level is nearest to 0.5, the others are how far each of the rest is from its
    neighbour, by a softplus: quantiles are in order however extreme outputs are, and in half precision too, since each
    is its neighbour plus or minus a number of at least 0.

    With ``standardize`` the loss, its sigma and :meth:`estimate` are in standardised units, as in
    :class:`~mtl_lightning.tasks.Regression`; predictions and metrics are in the target's own units.

    Predictions: ``value`` (B,), the quantile whose level is nearest to 0.5 (of two as near, the lower), and
    ``quantiles`` (B, K), ascending.

    Metrics, in the target's units: ``pinball``, the mean loss, and ``mae``, of the value, lower is better; with several
    levels ``coverage``, the share of targets from the lowest to the highest quantile, which should be the difference of
    their levels: 0.8 by default. It counts as better when it is higher.

    Args:
        spec: what the data says; its shape is ``()``.
        levels: K different ones, between 0 and 1, ascending.
        units: of the target, in words, where no spec says them.
        standardize: fit the mean and the standard deviation with :meth:`fit_target`.
        metrics: metrics by name, in place of the default ones; they are fed quantiles (N, K) and targets (N,).

    Raises:
        ConfigurationError: for another spec, or levels that are none.
    """

    calibrated_by = ()

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        levels: list[float] | tuple[float, ...] = (0.1, 0.5, 0.9),
        units: str | None = None,
        standardize: bool = False,
        metrics: MetricFactories | None = None,
    ) -> None:
        if isinstance(spec, TargetSpec):
            single_label(spec, "Quantile")
        if not levels or not all(0 < level < 1 for level in levels) or any(b <= a for a, b in pairwise(levels)):
            raise ConfigurationError(
                f"Quantile: expected `levels` between 0 and 1, ascending, such as [0.05, 0.5, 0.95], found {levels}."
            )
        super().__init__(spec, units=units, loss="l1", standardize=standardize, metrics=metrics)
        self.levels = tuple(float(level) for level in levels)
        self.columns, self.output_size, self.estimate_size = None, len(self.levels), len(self.levels)
        self.likelihood = ASYMMETRIC_LAPLACE
        self.middle = min(range(len(self.levels)), key=lambda index: abs(self.levels[index] - 0.5))
        self.batchable = (Quantile, self.levels) if type(self) is Quantile and not standardize else id(self)

    # ------------------------------------------------------------------------------------------------------ the output
    def quantiles(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to quantiles (B, K) in the units of the loss, each row ascending."""
        middle = self.middle
        distances = F.softplus(output)
        found = [output[:, middle]]
        # One after the other: sums of several numbers in another order may be rounded out of order.
        for level in range(middle + 1, self.output_size):
            found.append(found[-1] + distances[:, level])
        for level in reversed(range(middle)):
            found.insert(0, found[0] - distances[:, level])
        return torch.stack(found, dim=1)

    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over levels of each row's pinball loss, in standardised units where the target is."""
        self.expect_fitted()
        if self.standardize:
            mean, std = self._statistics(elements.dtype)
            elements = (elements - mean) / std
        return pinball(self.quantiles(output), elements.to(output.dtype), self.levels).mean(1)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the quantiles (K,) of the labels, in the target's units."""
        values, mask = self.columns_of(rows)
        return torch.cat([quantiles(values, mask, weight, level) for level in self.levels])

    def trivial_output(self, prediction: Tensor) -> Tensor:
        """Map quantiles (K,) in the target's units to outputs (K,)."""
        mean, std = self._statistics(prediction.dtype)
        found = (prediction - mean) / std
        distances = inverse_softplus(found[1:] - found[:-1])
        middle = self.middle
        return torch.cat([distances[:middle], found[middle : middle + 1], distances[middle:]])

    def predict(self, output: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # a number in the base
        """Map outputs (B, K) to quantiles (B, K), and that nearest to the median (B,), in the target's units."""
        found = self.for_metrics(output)
        return {"value": found[:, self.middle], "quantiles": found}

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to the quantiles (B, K) in the units of the loss."""
        most = torch.finfo(output.dtype).max  # which sums in half precision may exceed
        return self.quantiles(self.precise(output)).clamp(-most, most).to(output.dtype)

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see the quantiles (B, K) in the target's units."""
        self.expect_fitted()
        found = self.quantiles(self.precise(output))
        found = found.to(torch.float64) if self._precise else found
        mean, std = self._statistics(found.dtype)
        return found * std + mean

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are a number and quantiles, called by their levels."""
        fields = {"value": [], "quantiles": [f"{level:g}" for level in self.levels]}
        return {"form": "fields", "fields": fields, "units": self.spec.units}

    def default_metrics(self) -> MetricFactories:
        """Return the mean pinball loss, the error of the middle quantile and, of several levels, the coverage."""
        found: dict[str, Any] = {
            "pinball": partial(PinballError, levels=self.levels),
            "mae": partial(QuantileError, column=self.middle),
        }
        return found | ({"coverage": QuantileCoverage} if len(self.levels) > 1 else {})
