"""Regression of a number, or a vector of numbers, per row."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.fitted import FittedTask
from mtl_lightning.tasks.likelihoods import GAUSSIAN, HUBER, LAPLACE, Reduction, of_reduction
from mtl_lightning.tasks.options import counted, merged_spec
from mtl_lightning.tasks.popart import Statistics, checked_rate, followed, preserve, sums_about
from mtl_lightning.tasks.precision import KeepsPrecision
from mtl_lightning.tasks.rows import needs_float64
from mtl_lightning.tasks.transforms import Transform, checked_transform, fitted_powers, forward, inverse
from mtl_lightning.tasks.trivial import deviations, means, medians, wide
from mtl_lightning.tasks.weighted import AbsoluteError, RootMeanSquaredError
from mtl_lightning.types import ConfigurationError, Likelihood, TargetSpec, state_dtype

ElementwiseLoss: TypeAlias = Callable[[Tensor, Tensor], Any]
"""Of outputs and targets, a loss (B, *) per element; ``Any``, so that a function need not say what it returns."""


class Regression(KeepsPrecision, FittedTask):
    """A number (B,), or a vector (B, D), per row; targets are floats, ``nan`` where a label is missing.

    With ``standardize`` the loss, its sigma and :meth:`estimate` are in standardised units: every output has mean 0
    and standard deviation 1 over the training split. :meth:`predict` and the metrics are in the target's own units
    (``spec.units``) in either case. Where the mean is large beside the deviation, as of times in seconds since 1970,
    float32 does not hold the target: give it as float64 (tables do); predictions then are float64 too.

    With ``transform`` the loss, its sigma and :meth:`estimate` are of the transformed target, for one whose large
    values count too much: ``log1p`` is log(1 + y) of numbers from 0; ``yeo_johnson`` a power of any, fitted with
    :meth:`fit_target` for the likeliest normal distribution (:func:`~mtl_lightning.tasks.transforms.fitted_powers`).
    Predictions and metrics stay in the target's own units; a prediction is then the median rather than the mean of
    what is likely, so that ``rmse`` may rise. ``standardize`` is of the transformed numbers.

    With ``popart`` the same statistics are not fitted, but follow the targets during training, for data that is not
    known beforehand or whose scale changes: `Learning values across many orders of magnitude
    <https://arxiv.org/abs/1602.07714>`_ (van Hasselt et al., 2016), equations 2 and 6, and `Multi-task Deep
    Reinforcement Learning with PopArt <https://arxiv.org/abs/1809.04474>`_ (Hessel et al., 2018). They move before the
    losses of each update, and the last layer of the task's head is rewritten at once, so that no prediction changes.
    What to know of it:

    - Statistics start at mean 0 and standard deviation 1 and need some multiples of ``1 / popart`` updates to be those
      of the target; predictions, which start near 0, must be learned to its mean all the same. Where the training split
      is known and does not change, ``standardize`` starts there.
    - :meth:`estimate` is in the units of the loss, which move: the tasks that read it see them move.
    - What the optimizer keeps of the last layer (momentum, Adam's moments) is not rescaled with it: the error is a
      fraction of ``popart`` per update, and forgotten as fast as the optimizer forgets.
    - Losses, and sigmas learned of them, are in moving units too.

    Metrics: ``mae`` and ``rmse``, in the target's units, lower is better; over all labelled numbers of all outputs.

    Args:
        spec: what the data says: its shape is ``()`` for a number, with targets (B,) or (B, 1), and ``(D,)`` for a
            vector; by default a number.
        num_outputs: D of a vector, where no spec says it.
        output_names: what the outputs of a vector are called, likewise; there are D of them.
        units: of the target, in words, likewise.
        loss: of the residual r: ``"mse"`` is ``r^2``; ``"l1"`` is ``|r|``; ``"huber"`` is ``r^2 / 2`` as far as
            ``|r| = delta`` and ``delta * (|r| - delta / 2)`` beyond. Or a function of outputs and targets, both (B,) or
            both (B, D), that returns one loss per element; in YAML its dotted path.
        delta: where Huber's loss turns from square to linear, in the units of the loss.
        likelihood: the uncertainty term as a ``Likelihood`` or its three fields; required with a loss of your own,
            and in place of the usual term with another.
        standardize: fit each output's mean and standard deviation with :meth:`fit_target`; a constant output is only
            shifted. Without it the units of the loss are the target's.
        transform: ``"log1p"`` or ``"yeo_johnson"``, before anything else is done with the target.
        popart: the rate, above 0 and up to 1, with which the statistics follow the targets instead; the papers use
            3e-4. Needs a head that has a ``last_affine``.
        reduction: ``"sum"`` counts a vector once per output in the uncertainty term, ``"mean"`` counts it as one
            (:func:`~mtl_lightning.tasks.likelihoods.of_reduction`).
        metrics: metrics by name, in place of the default ones; they are fed predictions and targets of shape (N,).

    Raises:
        ConfigurationError: for a shape with more axes, an unknown loss, an own loss without a likelihood, or both
            ``standardize`` and ``popart``.
    """

    dtypes = "a floating-point dtype"
    values = "finite numbers or nan for missing"
    calibrated_by: tuple[str, ...] = ("conformal",)
    target_kind: ClassVar[str | None] = "number"
    unfitted = (
        "Regression(standardize=True): expected its mean and standard deviation to be fitted, found none. Call "
        "`fit_target` with the training split's target, or load a checkpoint that holds them."
    )
    target_mean: Tensor
    target_std: Tensor
    target_variance: Tensor
    target_power: Tensor

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        num_outputs: int | None = None,
        output_names: list[str] | None = None,
        units: str | None = None,
        loss: Literal["mse", "l1", "huber"] | ElementwiseLoss = "mse",
        delta: float = 1.0,
        likelihood: Likelihood | None = None,
        standardize: bool = False,
        transform: Transform | None = None,
        popart: float | None = None,
        reduction: Reduction = "mean",
        metrics: MetricFactories | None = None,
    ) -> None:
        number = counted("Regression", num_outputs, output_names, "num_outputs")
        given = {"shape": None if number is None else (number,), "names": output_names, "units": units}
        spec = merged_spec("Regression", spec, {"names": "output_names"}, **given)
        if len(spec.shape) > 1 or 0 in spec.shape:
            raise ConfigurationError(
                f"Regression: expected a number () or a vector (D,) per row in the TargetSpec, found {spec.shape}."
            )
        size = spec.shape[0] if spec.shape else 1
        elementwise, term = _loss_and_term(loss, delta, likelihood)
        super().__init__(
            spec,
            columns=size if spec.shape else None,
            output_size=size,
            likelihood=of_reduction(term, size, reduction),
            metrics=metrics,
        )
        self.elementwise, self.standardize = elementwise, standardize
        self._best_constant = {"mse": means, "l1": medians}.get(loss) if isinstance(loss, str) else None
        self.transform = checked_transform(transform, popart)
        self.values = "finite numbers from 0, or nan for missing" if transform == "log1p" else type(self).values
        self.popart, self.rescales = checked_rate(popart, standardize), popart is not None
        if type(self) is Regression and isinstance(loss, str) and not (standardize or self.rescales or transform):
            self.batchable = (Regression, spec.shape, loss, delta)
        # Fitted statistics are of float64: rounded ones would shift a target whose mean is large beside its deviation.
        dtype = torch.float64 if standardize else state_dtype()
        scaled, fits = standardize or self.rescales, standardize or transform == "yeo_johnson"
        powers = torch.zeros(size if transform == "yeo_johnson" else 0, dtype=torch.float64)
        self.register_buffer("target_power", powers, persistent=transform == "yeo_johnson")
        self.register_buffer("target_mean", torch.zeros(size, dtype=dtype), persistent=scaled)
        self.register_buffer("target_std", torch.ones(size, dtype=dtype), persistent=scaled)
        self.register_buffer("target_variance", torch.ones(size, dtype=dtype), persistent=self.rescales)
        self.await_target(fits)
        self._precise = False  # whether predictions need float64

    # ----------------------------------------------------------------------------------------------------- the target
    def accepts(self, dtype: torch.dtype) -> bool:
        """Floats only: in integers ``-100`` could be a number as well as a missing label."""
        return dtype.is_floating_point

    def is_labelled(self, elements: Tensor) -> Tensor:
        """Everything but ``nan`` is a label."""
        return ~elements.isnan()

    def is_valid(self, elements: Tensor) -> Tensor:
        """Everything but infinity is valid; what ``log1p`` is to transform is at least 0."""
        return ~(elements.isinf() | (elements < 0)) if self.transform == "log1p" else ~elements.isinf()

    def is_whole(self, elements: Tensor) -> bool:
        """A sum is finite only if all numbers are."""
        return type(self) is Regression and self.transform != "log1p" and math.isfinite(elements.sum().item())

    @property
    def target_scale(self) -> float | None:
        """Target's units per unit of the loss: the standard deviation; None if several outputs have different ones.

        A sigma of all outputs together is then a mean over noises in different units, and no output's noise. None, too,
        with a transform, after which the noise of a row in the target's units depends on its value.
        """
        if self.transform is not None:
            return None
        scales = set(self.target_std.tolist())
        return scales.pop() if len(scales) == 1 else None

    @torch.no_grad()
    def fit_target(self, target: Tensor) -> None:
        """Fit the mean and the standard deviation of each output over the labelled values of the training split.

        Args:
            target: the whole split's target, (N,), (N, 1) or (N, D). The standard deviation divides by the number of
                labelled values, so that standardised targets have a variance of exactly 1; it is 1 for an output
                whose values are all equal.

        Raises:
            TargetError: if the target is not valid.
        """
        if self.fitted:
            return
        self.check(target)
        values = self.elements(target).detach().cpu().double().reshape(len(target), -1)
        mask = ~values.isnan()
        if self.transform is not None:
            if self.transform == "yeo_johnson":
                self.target_power.copy_(fitted_powers(values, mask))
            values = self.transformed(values)
        number = mask.sum(0).clamp(min=1)
        mean = torch.where(mask, values, 0.0).sum(0) / number
        std = (torch.where(mask, values - mean, 0.0).square().sum(0) / number).sqrt()
        highest, lowest = (torch.where(mask, values, end) for end in (-torch.inf, torch.inf))
        varies = (highest.amax(0) > lowest.amin(0)) & (std.float() > 0)
        if self.standardize:
            self.target_mean.copy_(mean)
            self.target_std.copy_(torch.where(varies, std, 1.0))
        self.end_fit()

    def read_fitted(self) -> None:
        """Follow the statistics, which say whether predictions need float64."""
        super().read_fitted()
        if self.standardize and self.fitted:
            self._precise = any(map(needs_float64, self.target_mean.tolist(), self.target_std.tolist()))

    def transformed(self, values: Tensor) -> Tensor:
        """Map values (B, K), or (B,), in the target's units to those that are standardised."""
        if self.transform is None:
            return values
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        return forward(self.transform, wide, self.target_power)

    def target_sums(self, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return (3, K): each output's number of labels, and sums of the values and their squares, about the mean."""
        if not self.rescales:
            return super().target_sums(target, weight)
        values = self.elements(target).reshape(len(target), self.output_size)
        return sums_about(self.target_mean, values, self.is_labelled(values), weight)

    @torch.no_grad()
    def rescale(self, sums: Tensor, last: nn.Linear | nn.Conv2d) -> None:
        """Let the statistics follow, and rewrite the head's last layer so that :meth:`predict` gives what it gave."""
        if self.popart is None:
            return
        old = Statistics(self.target_mean, self.target_variance)
        new = followed(old, sums, self.popart)
        preserve(last.weight, cast("Tensor", last.bias), old, new)
        for buffer, value in zip(
            (self.target_mean, self.target_variance, self.target_std), (*new, new.std), strict=True
        ):
            buffer.copy_(value)

    # ----------------------------------------------------------------------------------------------------- the output
    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of each element, in standardised units where the target is standardised."""
        self.expect_fitted()
        elements = self.transformed(elements)
        if self.standardize or self.rescales:
            mean, std = self._statistics(elements.dtype)
            elements = (elements - mean) / std
        output = output[:, 0] if self.columns is None else output
        # Cut off where there is no label: a loss of the user's own may have a gradient there that is inf or nan.
        losses: Tensor = self.elementwise(torch.where(mask, output, 0.0), elements.to(output.dtype))
        return losses

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return a constant (K,) in the target's units, or the transformed ones: the mean, with ``l1`` the median;
        searched for other losses.
        """
        values, mask = self.columns_of(rows)
        values = self.transformed(torch.where(mask, values, 0.0))
        if self._best_constant is not None:
            return self._best_constant(values, mask, weight)
        mean, std = wide(self.target_mean), wide(self.target_std)
        start, scale = means(values, mask, weight), deviations(values, mask, weight)
        start, scale = ((start - mean) / std).to(state_dtype()), (scale / std).to(state_dtype())
        return self.best_output(rows, weight, start, scale).to(std.dtype) * std + mean

    def trivial_output(self, prediction: Tensor) -> Tensor:
        """Map a constant (K,), likewise, to outputs (K,)."""
        mean, std = self._statistics(prediction.dtype)
        return (prediction - mean) / std

    def predict(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to numbers (B,), or vectors (B, D), in the target's units."""
        values = self._numbers_of(self.precise(output))
        return values[:, 0] if self.columns is None else values

    def _numbers_of(self, values: Tensor) -> Tensor:
        """Map numbers (B, K) in the units of the loss to the target's, (B, K)."""
        self.expect_fitted()
        values = values.to(torch.float64) if self._precise else values
        mean, std = self._statistics(values.dtype)
        values = values * std + mean
        if self.transform is not None:
            values = inverse(self.transform, values, self.target_power)
        return values

    def decoding(self) -> dict[str, Any]:
        """Return that outputs are numbers, what they are called and their units."""
        names = [] if self.columns is None else self.spec.named(self.columns)
        return {"form": "values", "names": names, "units": self.spec.units}

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, K) to themselves: the numbers in the units of the loss."""
        return self.outputs(output)

    def calibration_rows(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return predictions (B, K) and targets (B, K), in the target's units, and which are labelled (B, K)."""
        return (self.for_metrics(output).reshape(len(output), -1), *self.columns_of(target))

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see what users see."""
        return self.predict(output)

    def default_metrics(self) -> MetricFactories:
        """Return the mean absolute error and the root of the mean squared error."""
        return {"mae": AbsoluteError, "rmse": RootMeanSquaredError}

    def _statistics(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (K,) for arithmetic with values of a dtype, in float32 or better."""
        dtype = torch.promote_types(dtype, torch.float32)
        return self.target_mean.to(dtype), self.target_std.to(dtype)


def _loss_and_term(
    loss: str | ElementwiseLoss, delta: float, likelihood: Likelihood | None
) -> tuple[ElementwiseLoss, Likelihood]:
    """Return the elementwise loss and its uncertainty term, before any reduction."""
    named: dict[str, tuple[ElementwiseLoss, Likelihood]] = {
        "mse": (partial(F.mse_loss, reduction="none"), GAUSSIAN),
        "l1": (partial(F.l1_loss, reduction="none"), LAPLACE),
        "huber": (partial(F.huber_loss, reduction="none", delta=delta), HUBER),
    }
    if isinstance(loss, str):
        if loss not in named:
            raise ConfigurationError(
                f"Regression: expected `loss` to be a function or in {list(named)}, found {loss!r}."
            )
        elementwise, usual = named[loss]
        return elementwise, usual if likelihood is None else Likelihood(*likelihood)
    if likelihood is None:
        raise ConfigurationError(
            "Regression: expected a `likelihood` together with a loss of your own, found none. Give the a, b and scale "
            "of its term a * exp(-s) * L + b * s, such as (0.5, 0.5, 'log_var') for a squared error."
        )
    return loss, Likelihood(*likelihood)
