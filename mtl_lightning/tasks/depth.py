"""Depth, or any other positive number, of every pixel."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.dense import DenseTask
from mtl_lightning.tasks.likelihoods import LAPLACE
from mtl_lightning.tasks.options import merged_spec
from mtl_lightning.tasks.regression import ElementwiseLoss, Regression
from mtl_lightning.tasks.weighted import AbsoluteError, RelativeError
from mtl_lightning.types import ConfigurationError, Likelihood, TargetSpec

_LOSSES = ("l1", "l2", "huber", "berhu", "log")


class DepthEstimation(DenseTask):
    """A number of at least 0 per pixel: depth, or inverse depth (disparity). Pixels without a value are left out.

    Targets (B, H, W) or (B, 1, H, W): floats, with ``nan`` or ``invalid`` for a pixel without a value.

    Metrics, means over all valid pixels of the whole set, lower is better: ``abs_error``, ``|p - y|`` in the target's
    units, and ``rel_error``, ``|p - y| / y`` as a fraction (y of less than 1.17e-6 counts as that). Some published code
    has means over batches instead, which weigh pixels differently. The relative error of a disparity is large wherever
    something is far away.

    Args:
        spec: what the data says: its shape is (H, W) or (1, H, W), or () where the size varies, as by default.
        units: of the depth, in words, where no spec says them.
        loss: of the residual r, in the units of the loss:

            - ``"l1"``: ``|r|``, the literature's;
            - ``"l2"``: ``r^2``;
            - ``"huber"``: ``r^2 / 2`` as far as ``|r| = delta``, and ``delta * (|r| - delta / 2)`` beyond;
            - ``"berhu"``: ``|r|`` as far as ``|r| = delta``, and ``(r^2 + delta^2) / (2 delta)`` beyond, the reverse
              Huber loss of `Deeper Depth Prediction with Fully Convolutional Residual Networks
              <https://arxiv.org/abs/1606.00373>`_ (Laina et al., 2016). Departure: there delta is a fifth
              of the largest residual of the batch, here it is fixed, so that the loss is a sum over pixels;
            - ``"log"``: ``|log p - log y|``, where the outputs are the logarithms; it needs depths above 0;
            - or a function of outputs and targets (N,) that returns one loss per pixel; in YAML its dotted path.
        delta: where ``huber`` and ``berhu`` change their form, in the units of the loss.
        likelihood: the uncertainty term as a ``Likelihood`` or its three fields; required with a loss of your own, and
            in place of the usual term with another. The usual ones: Laplace for ``l1``, ``log`` and (in its core)
            ``berhu``, Gaussian for ``l2``, Huber's for ``huber``.
        invalid: marks a pixel without a value, beside ``nan``; None if every number is one.
        standardize: fit the training split's mean and standard deviation (of the logarithms with ``log``) with
            :meth:`fit_target`; the loss, its sigma and :meth:`estimate` are in standardised units then, else in the
            target's.
        metrics: metrics by name, in place of the default ones; they are fed predictions and targets (N,).

    Raises:
        ConfigurationError: for another shape, an unknown loss, or an own loss without a likelihood.
    """

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        units: str | None = None,
        loss: Literal["l1", "l2", "huber", "berhu", "log"] | ElementwiseLoss = "l1",
        delta: float = 1.0,
        likelihood: Likelihood | None = None,
        invalid: float | None = 0.0,
        standardize: bool = False,
        metrics: MetricFactories | None = None,
    ) -> None:
        spec = merged_spec("DepthEstimation", spec, units=units)
        number = _regression(spec, loss, delta, likelihood, standardize)
        super().__init__(spec, output_size=1, estimate_size=1, likelihood=number.likelihood, metrics=metrics)
        self.number = number
        self.is_log = loss == "log"
        self.invalid_value = invalid
        missing = "nan" if invalid is None else f"nan or {invalid}"
        self.values = f"finite numbers {'above 0' if self.is_log else 'of at least 0'} or {missing} for missing"

    # ----------------------------------------------------------------------------------------------------- the target
    def accepts(self, dtype: torch.dtype) -> bool:
        """Floats only: convert integers, such as millimetres, in your data."""
        return dtype.is_floating_point

    def is_labelled(self, maps: Tensor) -> Tensor:
        """``nan`` and ``invalid`` are missing."""
        labelled = ~maps.isnan()
        return labelled if self.invalid_value is None else labelled & (maps != self.invalid_value)

    def is_valid(self, maps: Tensor) -> Tensor:
        """Depths are finite and not negative."""
        return ~self.is_labelled(maps) | (maps.isfinite() & ((maps > 0) if self.is_log else (maps >= 0)))

    def fit_target(self, target: Tensor) -> None:
        """Fit the mean and the standard deviation over the valid pixels of the training split.

        Args:
            target: (N, H, W) or (N, 1, H, W) of any height and width.
        """
        if not self.fitted:
            self.number.fit_target(self._encoded(target, self.is_labelled(target)))

    @property
    def fitted(self) -> bool:
        """Whether the statistics are fitted, or not needed."""
        return self.number.fitted

    @property
    def target_scale(self) -> float | None:
        """Target's units per unit of the loss; None with ``log``, whose noise is relative to the depth."""
        return None if self.is_log else self.number.target_scale

    # ----------------------------------------------------------------------------------------------------- the outputs
    def losses(self, output: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of each pixel."""
        return self.number.elementwise_loss(output.reshape(-1, 1), self._encoded(maps, mask)).reshape(mask.shape)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the constant depth (1,), with ``log`` its logarithm, as of a regression of the pixels' numbers."""
        return self.number.trivial_prediction(self._encoded(rows, self.has_label(rows)), weight)

    def trivial_output(self, prediction: Tensor) -> Tensor:
        """Map a constant depth (1,) to the output (1,)."""
        return self.number.trivial_output(prediction)

    def predict(self, output: Tensor) -> Tensor:
        """Map outputs (B, 1, H, W) to depths (B, H, W), in the target's units."""
        return self.for_metrics(self.precise(output))

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, 1, H, W) to themselves: depths (with ``log`` their logarithms) in the units of the loss."""
        return self.outputs(output)

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see what users see."""
        values = self.number.predict(output.reshape(-1, 1)).reshape(output.shape[0], *output.shape[2:])
        return values.exp() if self.is_log else values

    def default_metrics(self) -> MetricFactories:
        """Return the mean absolute and the mean relative error."""
        return {"abs_error": AbsoluteError, "rel_error": RelativeError}

    def _encoded(self, maps: Tensor, mask: Tensor) -> Tensor:
        """Return (N,) numbers, or their logarithms, with nan for what is missing."""
        return torch.where(mask, maps.log() if self.is_log else maps, torch.nan).reshape(-1)


def berhu(output: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Return the reverse Huber loss of each pixel: the residual's size, its square beyond ``delta``."""
    size = (output - target).abs()
    return torch.where(size <= delta, size, (size.square() + delta**2) / (2 * delta))


def _regression(
    spec: TargetSpec, loss: Any, delta: float, likelihood: Likelihood | None, standardize: bool
) -> Regression:
    """Return the regression of one pixel's number."""
    if isinstance(loss, str) and loss not in _LOSSES:
        raise ConfigurationError(
            f"DepthEstimation: expected `loss` to be a function or in {list(_LOSSES)}, found {loss!r}."
        )
    if callable(loss) and likelihood is None:
        raise ConfigurationError(
            "DepthEstimation: expected a `likelihood` together with a loss of your own, found none. Give the a, b and "
            "scale of its term a * exp(-s) * L + b * s, such as (1, 1, 'log_scale') for an absolute error."
        )
    named: dict[str, tuple[Any, Likelihood | None]] = {
        "l2": ("mse", likelihood),
        "log": ("l1", likelihood),
        "berhu": (partial(berhu, delta=delta), likelihood or LAPLACE),
    }
    of_pixel, term = named.get(loss, (loss, likelihood)) if isinstance(loss, str) else (loss, likelihood)
    return Regression(
        TargetSpec(units=spec.units), loss=of_pixel, delta=delta, likelihood=term, standardize=standardize
    )
