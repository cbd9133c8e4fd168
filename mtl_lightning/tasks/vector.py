"""Regression of a vector of numbers whose outputs have a learned noise level each."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.likelihoods import TEMPERATURE, Reduction, of_reduction
from mtl_lightning.tasks.regression import Regression
from mtl_lightning.tasks.transforms import Transform
from mtl_lightning.tasks.trivial import means
from mtl_lightning.types import ConfigurationError, TargetSpec, state_dtype


class VectorRegression(Regression):
    r"""A vector (B, D) per row with a learned noise level for each output; targets are floats, ``nan`` where missing.

    :class:`~mtl_lightning.tasks.Regression` adds up the errors of all outputs, and a balancer learns one noise level of
    all. Here each output d has its own scale :math:`\sigma_d`, the same for all rows, as in `Multi-Task Learning Using
    Uncertainty to Weigh Losses <https://arxiv.org/abs/1705.07115>`_ (Kendall et al., 2018), equation 7, with an output
    in the place of a task:

    .. math:: \log(\sigma_d / \sigma_{min}) + r_d^2 / (2 \sigma_d^2), \qquad
              \log(b_d / \sigma_{min}) + |r_d| / b_d

    of the residual r with ``mse``, and with ``l1``, whose b is the scale of Laplace noise. The least :math:`\sigma_d^2`
    is the mean squared residual of the output, the least :math:`b_d` the mean absolute one, as long as they are above
    ``least_std``: scales stay above it, and the likelihood is taken less its floor there, so that it is at least 0. An
    output with little noise then counts as much as it can be told, and one that is all noise does not drown it.

    The scales are parameters of the task: in its optimizer group, and in checkpoints. They start at 1, so standardise a
    target of another size. What to know of them:

    - With Adam their logarithms move by about the learning rate of the task per update.
    - The logarithm counts for labelled numbers only: an output without a label in an update has a gradient of 0 there,
      and its scale does not drift. Momentum dies out, and weight decay acts, as in the head's last layer; it pulls
      scales to 1.
    - The uncertainty term ``exp(-s) * L + s / 2`` of a balancer only lets the weight of the whole task follow its loss;
      ``exp(s)`` is a temperature, and the balancer's sigma is not given in the target's units.
    - :meth:`output_sigmas` gives the noise levels as standard deviations in the target's units, or the transformed
      target's; training records them as ``train/sigma/<task>/<output>``.

    Predictions, estimates and metrics are those of :class:`~mtl_lightning.tasks.Regression`. A network of your own
    gives final outputs (B, D), or (B, 2 D) with scales that depend on the row (see :meth:`complete`).

    Args:
        spec: what the data says; its shape is ``(D,)``.
        num_outputs: D, where no spec says it.
        output_names: what the outputs are called, likewise; there are D of them.
        units: of the target, in words, likewise.
        loss: ``"mse"`` for normal noise, ``"l1"`` for Laplace noise.
        least_std: the smallest scale, in the units of the loss; below 1.
        standardize: fit each output's mean and standard deviation with :meth:`fit_target`.
        transform: ``"log1p"`` or ``"yeo_johnson"``, before anything else is done with the target.
        reduction: ``"sum"`` counts a vector once per output in a balancer's uncertainty term, ``"mean"`` as one.
        metrics: metrics by name, in place of the default ones; they are fed predictions and targets of shape (N,).

    Raises:
        ConfigurationError: for another shape, or options out of range.
    """

    target_kind = None

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        num_outputs: int | None = None,
        output_names: list[str] | None = None,
        units: str | None = None,
        loss: Literal["mse", "l1"] = "mse",
        least_std: float = 0.01,
        standardize: bool = False,
        transform: Transform | None = None,
        reduction: Reduction = "mean",
        metrics: MetricFactories | None = None,
    ) -> None:
        if loss not in ("mse", "l1"):
            raise ConfigurationError(
                f"VectorRegression: expected `loss` in ['mse', 'l1'], found {loss!r}. Use Regression for other losses."
            )
        if isinstance(spec, TargetSpec) and (len(spec.shape) != 1 or 0 in spec.shape):
            raise ConfigurationError(
                f"VectorRegression: expected a vector (D,) per row in the TargetSpec, found {spec.shape}. Use "
                "Regression for a number, whose noise level a balancer learns."
            )
        super().__init__(
            spec,
            num_outputs=num_outputs,
            output_names=output_names,
            units=units,
            loss=loss,
            standardize=standardize,
            transform=transform,
            metrics=metrics,
        )
        if self.columns is None:
            raise ConfigurationError(
                "VectorRegression: expected `num_outputs` or a TargetSpec, found neither. Use Regression for a number, "
                "whose noise level a balancer learns."
            )
        self.number = self.columns
        self.output_size = 2 * self.number
        self.likelihood = of_reduction(TEMPERATURE, self.number, reduction)
        self.squared, self.least_std = loss == "mse", least_std
        self.offset = math.log(1 / least_std - 1)
        self.log_scale = nn.Parameter(torch.zeros(self.number, dtype=state_dtype()))

    # ------------------------------------------------------------------------------------------------------ the scales
    @property
    def head_size(self) -> int:
        """D: the head gives the numbers."""
        return self.number

    def complete(self, output: Tensor) -> Tensor:
        r"""Map numbers (B, D) to outputs (B, 2 D), by the scales; outputs that are complete are left as they are.

        The other D outputs s give the scales :math:`\sigma_{min} + (1 - \sigma_{min}) e^s`: at 0 they are 1.
        """
        if output.shape[1:] != (self.number,):
            return output
        scales = self.log_scale.to(torch.promote_types(output.dtype, self.log_scale.dtype))
        return torch.cat([output.to(scales.dtype), scales.expand(output.shape[0], -1)], dim=1)

    @torch.no_grad()
    def output_sigmas(self) -> Tensor:
        """Return the noise level (D,) of each output, a standard deviation, in the target's units.

        With a transform in those of the transformed target.
        """
        scale = self.least_std + (1 - self.least_std) * self.log_scale.exp()
        std = self.target_std.to(scale.dtype)
        return scale * std if self.squared else math.sqrt(2) * scale * std

    @property
    def target_scale(self) -> float | None:
        """None: a balancer's sigma is a temperature."""
        return None

    # ----------------------------------------------------------------------------------------------------- the output
    def losses(self, output: Tensor, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the negative log-likelihood of each number over its floor, in units of the loss."""
        self.expect_fitted()
        elements = self.transformed(elements)
        if self.standardize:
            mean, std = self._statistics(elements.dtype)
            elements = (elements - mean) / std
        numbers, scales = output[:, : self.number], output[:, self.number :]
        scales = scales + self.offset  # log(scale / least_std - 1), so that nothing overflows
        residual = elements.to(output.dtype) - numbers
        over = residual * torch.sigmoid(-scales) / self.least_std  # the residual over the scale
        return F.softplus(scales) + (0.5 * over.square() if self.squared else over.abs())

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the best constants, and the scales of what they leave (2 D,), in the target's units, or the
        transformed ones.
        """
        number = super().trivial_prediction(rows, weight)
        values, mask = self.columns_of(rows)
        residual = self.transformed(torch.where(mask, values, 0.0)).to(number.dtype) - number
        left = means(residual.square(), mask, weight).sqrt() if self.squared else means(residual.abs(), mask, weight)
        return torch.cat([number, left.to(number.dtype)])

    def trivial_output(self, prediction: Tensor) -> Tensor:
        """Map them to the outputs (2 D,)."""
        mean, std = self._statistics(prediction.dtype)
        number, scale = prediction[: self.number], prediction[self.number :]
        over = (scale / std - self.least_std).clamp(min=1e-3 * self.least_std) / (1 - self.least_std)
        return torch.cat([(number - mean) / std, over.log()])

    def predict(self, output: Tensor) -> Tensor:
        """Map outputs (B, 2 D) to vectors (B, D) in the target's units."""
        return self._numbers_of(self.precise(output)[:, : self.number])

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, 2 D) to the numbers (B, D) in the units of the loss."""
        return self.outputs(output)[:, : self.number]
