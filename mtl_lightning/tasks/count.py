"""Counts of events: 0, 1, 2, ..., perhaps over exposures that differ from row to row."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.tasks.base import MetricFactories, feed
from mtl_lightning.tasks.count_metrics import PoissonDeviance
from mtl_lightning.tasks.fitted import FittedTask
from mtl_lightning.tasks.likelihoods import DEVIANCE
from mtl_lightning.tasks.options import merged_spec
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.tasks.trivial import wide
from mtl_lightning.tasks.weighted import AbsoluteError, RootMeanSquaredError
from mtl_lightning.types import ConfigurationError, TargetSpec, state_dtype

EXPOSED = ("count", "exposure")
"""The names, in its spec, of a target with exposures."""
_STEEPEST = 30.0  # of a log rate; beyond, the rate grows linearly
_LEAST_DISPERSION = 1e-6


class Count(FittedTask):
    r"""A number of events per row: a whole number of at least 0.

    The first output is the log of the expected count per unit of exposure, so that factors on rates add up. With
    ``distribution="poisson"`` the loss is the unit deviance

    .. math:: d = 2 \, (y \log(y / \mu) - y + \mu), \qquad \mu = e \, \exp(\text{output})

    of a count y with exposure e (1 without), at least 0, and 0 where the expectation :math:`\mu` is the count. Minus
    twice the log-likelihood differs from it by a constant of the data; ``PoissonNLLLoss``, which leaves it out, can be
    negative, and no noise level can be learned from it. The uncertainty term is ``exp(-s) / 2 * d + s / 2``, that of
    quasi-Poisson counts with variance :math:`\phi \mu`: ``exp(s)`` is the dispersion :math:`\phi`, at its optimum the
    mean deviance. It has no units, so that sigma is not given in the target's.

    With ``distribution="negative_binomial"`` counts have the variance :math:`\mu + \alpha \mu^2`, and a second output
    gives the dispersion :math:`\alpha` of the row, by a softplus (plus 1e-6). It is an output, rather than one number
    of the task, so that it can follow the inputs, stays in the head's optimizer group, and needs nothing else of a
    network; a head that makes it constant is the usual model. The loss is minus twice the log-likelihood less that of
    a Poisson distribution with its mean at the count. No negative binomial distribution, a mixture of Poisson ones,
    can have a higher likelihood than that: the loss is at least 0, and the deviance where :math:`\alpha` goes to 0.
    The uncertainty term is the same; as the dispersion is learned already, ``exp(s)`` is then a temperature only.

    A target with exposures, such as the days or the area that events were counted in, is (B, 2): count and exposure,
    nan in either for a missing label; the log of the exposure is added to the log rate. Predictions are per unit of
    exposure, metrics are of expected counts, so that a row with more exposure counts more.

    Rates beyond exp(30) grow linearly with the output, so that losses and gradients stay finite.

    Targets (B,), (B, 1): floats with nan, or integers with -100, for missing; (B, 2) floats. Fractions are refused:
    they are amounts (:class:`~mtl_lightning.tasks.Regression` with ``transform``,
    :class:`~mtl_lightning.tasks.ZeroInflatedLogNormal`) or rates, whose count and exposure should be given.

    Metrics, of expected counts, lower is better: ``deviance``, the mean Poisson deviance; ``mae``, ``rmse``, in counts.

    Args:
        spec: what the data says: its shape is ``()``, or ``(2,)`` with the names ``("count", "exposure")``.
        exposure: whether targets have exposures, where no spec says it.
        units: of what is predicted, in words, likewise; such as "claims a year".
        distribution: of the counts.
        standardize: fit the mean rate of the training split with :meth:`fit_target`; the first output is then the log
            of the rate over the mean one, so that a network starts near it.
        metrics: metrics by name, in place of the default ones; they are fed expected and true counts (N,).

    Raises:
        ConfigurationError: for another spec, one that the arguments contradict, or another distribution.
    """

    dtypes = "a floating-point or an integer dtype"
    target_kind = "count"
    unfitted = (
        "Count(standardize=True): expected its mean rate to be fitted, found none. Call `fit_target` with the training "
        "split's target, or load a checkpoint that holds it."
    )
    base_rate: Tensor

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        exposure: bool | None = None,
        units: str | None = None,
        distribution: Literal["poisson", "negative_binomial"] = "poisson",
        standardize: bool = False,
        metrics: MetricFactories | None = None,
    ) -> None:
        shape = {None: None, False: (), True: (2,)}[exposure]
        spec = merged_spec(
            "Count", spec, {"shape": "exposure"}, shape=shape, names=EXPOSED if exposure else None, units=units
        )
        if spec.shape not in ((), (1,)) and (spec.shape, spec.names) != ((2,), EXPOSED):
            raise ConfigurationError(
                f"Count: expected a target with one count a row, shape () in its TargetSpec, or (2,) with the names "
                f"{EXPOSED}, found {spec.shape} with {spec.names}."
            )
        if distribution not in ("poisson", "negative_binomial"):
            raise ConfigurationError(
                f"Count: expected `distribution` to be 'poisson' or 'negative_binomial', found {distribution!r}."
            )
        size = 1 if distribution == "poisson" else 2
        super().__init__(spec, columns=None, output_size=size, likelihood=DEVIANCE, metrics=metrics)
        self.distribution, self.standardize = distribution, standardize
        self.parts = 2 if spec.shape == (2,) else None
        self.values = "whole numbers of at least 0, with exposures above 0" if self.parts else "whole numbers from 0"
        self.values += f", or nan ({MISSING} in integers) for missing"
        self.register_buffer("base_rate", torch.zeros((), dtype=state_dtype()), persistent=standardize)
        self.await_target(standardize)

    # ----------------------------------------------------------------------------------------------------- the target
    def accepts(self, dtype: torch.dtype) -> bool:
        """Floats; integers, too, if there are no exposures."""
        return dtype.is_floating_point or not (dtype.is_complex or dtype == torch.bool or self.parts)

    def is_labelled(self, elements: Tensor) -> Tensor:
        """``nan`` in floats and ``-100`` in integers are missing labels, and so is a count without its exposure."""
        known = ~elements.isnan() if elements.is_floating_point() else elements.long() != MISSING
        return known.all(1) if self.parts else known

    def is_valid(self, elements: Tensor) -> Tensor:
        """Counts are whole and not negative, exposures above 0; both finite."""
        known, counts = self.is_labelled(elements), elements[:, 0] if self.parts else elements
        whole = (counts >= 0) & ((counts == counts.floor()) & counts.isfinite() if counts.is_floating_point() else True)
        if not self.parts:
            return ~known | whole
        exposures = elements[:, 1]
        return ~known.unsqueeze(1) | torch.stack([whole, (exposures > 0) & exposures.isfinite()], 1)

    def divided(self, elements: Tensor) -> tuple[Tensor, Tensor]:
        """Return counts (B,) and exposures (B,), 1 where there are none, or no label."""
        if not self.parts:
            return elements, torch.ones_like(elements)
        return elements[:, 0], torch.where(elements[:, 1] > 0, elements[:, 1], 1.0)

    @property
    def target_scale(self) -> float | None:
        """None: what sigma is of, a dispersion, has no units."""
        return None

    @torch.no_grad()
    def fit_target(self, target: Tensor) -> None:
        """Fit the mean rate of the training split, the sum of its counts over that of its exposures.

        Args:
            target: the whole split's, (N,), (N, 1) or (N, 2).

        Raises:
            TargetError: if the target is not valid.
        """
        if not self.fitted:
            self.check(target)
            elements = self.elements(target).detach().cpu()
            elements = elements[self.is_labelled(elements)]
            self.base_rate.copy_(self._log_mean_rate(elements, torch.ones(len(elements))))
            self.end_fit()

    def _log_mean_rate(self, elements: Tensor, weight: Tensor) -> Tensor:
        """Return the log () of the mean rate of labelled elements; half an event stands for none."""
        if not len(elements):
            return weight.new_zeros(())
        (counts, exposures), weight = self.divided(elements), wide(weight)
        events = (wide(counts) * weight).sum()
        smallest = 0.5 * weight.sum() / len(elements)
        return torch.where(events > 0, events, smallest).log() - (wide(exposures) * weight).sum().log()

    # ----------------------------------------------------------------------------------------------------- the output
    def log_rate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to log rates (B,)."""
        self.expect_fitted()
        found = output[:, 0] + self.base_rate.to(output.dtype)
        return found.clamp(max=_STEEPEST) + torch.log1p((found - _STEEPEST).clamp(min=0))

    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the unit deviance of each count, or what stands for it."""
        counts, exposures = self.divided(elements)
        counts, log_mean = counts.to(output.dtype), self.log_rate(output) + exposures.to(output.dtype).log()
        if self.distribution == "poisson":
            return 2 * (torch.xlogy(counts, counts) - counts * log_mean - counts + log_mean.exp())
        found = negative_binomial(wide(counts), wide(log_mean), wide(dispersion(output[:, 1])))
        return found.to(output.dtype)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the outputs (K,) of the mean rate; the dispersion beside it is searched for."""
        elements = self.elements(rows)
        start = (self._log_mean_rate(elements, weight) - wide(self.base_rate)).to(state_dtype())
        if self.distribution == "poisson":
            return start.reshape(1)
        return self.best_output(rows, weight, torch.stack([start, start.new_zeros(())]), start.new_ones(2))

    def predict(self, output: Tensor) -> Tensor | dict[str, Tensor]:
        """Map outputs (B, K) to the expected count per unit of exposure (B,); for the negative binomial distribution
        as ``value``, with the ``dispersion`` (B,).
        """
        output = self.precise(output)
        rate = self.log_rate(output).exp()
        return rate if self.distribution == "poisson" else {"value": rate, "dispersion": dispersion(output[:, 1])}

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are numbers, and their units."""
        if self.distribution == "poisson":
            return {"form": "values", "names": [], "units": self.spec.units}
        return {"form": "fields", "fields": {"value": [], "dispersion": []}, "units": self.spec.units}

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to themselves: the log rate, and what the dispersion is made of."""
        return self.outputs(output)

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see rates, times exposures."""
        return self.log_rate(self.precise(output)).exp()

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Feed expected and true counts of the labelled rows to ``metrics``; does nothing where there is none."""
        elements = self.elements(target)
        mask = self.is_labelled(elements)
        if weight is not None:
            mask = mask & (weight > 0)
        if mask.any():
            counts, exposures = self.divided(elements[mask])
            rates = self.for_metrics(output.detach())[mask]
            feed(metrics, rates * exposures, counts.to(rates.dtype), None if weight is None else weight[mask])

    def default_metrics(self) -> MetricFactories:
        """Return the mean Poisson deviance, the mean absolute error and the root of the mean squared one."""
        return {"deviance": PoissonDeviance, "mae": AbsoluteError, "rmse": RootMeanSquaredError}


def dispersion(output: Tensor) -> Tensor:
    """Map outputs (B,) to dispersions (B,) above 0."""
    return F.softplus(output) + _LEAST_DISPERSION


def negative_binomial(counts: Tensor, log_mean: Tensor, dispersion: Tensor) -> Tensor:
    r"""Return minus twice the log-likelihood (B,) of counts, less that of a Poisson distribution with these as means.

    With :math:`r = 1 / \alpha` the likelihood of y is :math:`\Gamma(y + r) / (\Gamma(r) \, y!) \cdot
    (r / (r + \mu))^r \cdot (\mu / (r + \mu))^y`.

    Args:
        counts: y, (B,).
        log_mean: the log of :math:`\mu`, (B,).
        dispersion: :math:`\alpha`, (B,).
    """
    size, mean = 1 / dispersion, log_mean.exp()
    ways = torch.lgamma(counts + size) - torch.lgamma(size)
    chances = counts * (log_mean - torch.log(size + mean)) - size * torch.log1p(mean / size)
    return 2 * (torch.xlogy(counts, counts) - counts - ways - chances)
