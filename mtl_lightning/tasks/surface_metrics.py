"""Metrics of the angle between two directions, over any number of pixels in bounded memory."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

BINS = 2**18  # of the median's histogram of 0..180 degrees: 2 MiB of counts
_UNITS = 2**20  # per degree, of the mean's sum


def angular_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Map directions (N, 3) and (N, 3), of any length, to the angles (N,) between them, in degrees.

    By ``atan2(|p x y|, p . y)``, which is exact for small angles too: ``acos`` in float32 knows no angle between 0 and
    0.02 degrees. A vector without a direction, (0, 0, 0), is at 90 degrees to everything.
    """
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    prediction, target = prediction.to(dtype), target.to(dtype)
    across = torch.linalg.cross(prediction, target).norm(dim=-1)
    along = (prediction * target).sum(-1)
    angle = torch.rad2deg(torch.atan2(across, along))
    return torch.where((across == 0) & (along == 0), 90.0, angle)


class _AngularMetric(Metric):
    """Sums (C,) over pixels, added over batches and processes.

    Without sample weights they are integers, so that no order or split of the pixels changes a figure; with weights a
    pixel of weight w counts as w pixels, and sums are in float32.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    counted: Tensor
    weighed: Tensor

    def __init__(self, sums: int, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("counted", torch.zeros(sums, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("weighed", torch.zeros(sums), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add directions (N, 3), predicted and true, and, if they have some, sample weights (N,)."""
        sums = self.sums(angular_error(prediction, target), weight)
        if weight is None:
            self.counted += sums
        else:
            self.weighed += sums

    @abstractmethod
    def sums(self, angles: Tensor, weight: Tensor | None) -> Tensor:
        """Map angles (N,) in degrees to the sums (C,) of a batch, integers if there is no weight."""

    @property
    def totals(self) -> Tensor:
        """The sums (C,) over everything seen, float64 on the CPU, since not every accelerator has that."""
        return self.counted.cpu().double() + self.weighed.cpu().double()

    def ratio(self, unit: float = 1.0) -> Tensor:
        """Return the first sum per pixel, in units of ``unit``; the second one is the number of pixels."""
        first, pixels = self.totals.unbind()
        return (first / pixels * unit).to(self.device, self.weighed.dtype)


class MeanAngularError(_AngularMetric):
    """The mean angle in degrees; each angle is rounded to 1e-6 degrees.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(2, **options)

    def sums(self, angles: Tensor, weight: Tensor | None) -> Tensor:
        """Return the summed angles, and the number of pixels."""
        units = (angles * _UNITS).round().long()
        return _per_pixel(units, weight)

    def compute(self) -> Tensor:
        """Return the mean (), nan without a pixel."""
        return self.ratio(1 / _UNITS)


class MedianAngularError(_AngularMetric):
    """The median angle in degrees, of all pixels together: exact to 0.0004 degrees, however many there are.

    A histogram of 2^18 bins over 0..180 degrees, 0.0007 degrees each, counts the angles; the median is given as the
    middle of its bin. Of an even number of pixels it is the lower one of the two in the middle, as ``torch.median`` has
    it; with weights it is the first angle up to which there is half of the weight.

    Args:
        options: of ``torchmetrics.Metric``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(BINS, **options)

    def sums(self, angles: Tensor, weight: Tensor | None) -> Tensor:
        """Return the histogram."""
        bins = (angles * (BINS / 180)).long().clamp(0, BINS - 1)
        if weight is None:
            return torch.bincount(bins, minlength=BINS)
        return torch.zeros_like(self.weighed).index_add(0, bins, weight.to(self.weighed.dtype))

    def compute(self) -> Tensor:
        """Return the median (), nan without a pixel."""
        up_to = self.totals.cumsum(0)
        place = torch.searchsorted(up_to, up_to[-1:] / 2)[0]
        median = torch.where(up_to[-1] > 0, (place + 0.5) * (180 / BINS), torch.nan)
        return median.to(self.device, self.weighed.dtype)


class WithinAngle(_AngularMetric):
    """The share of pixels whose angle is below a threshold.

    Args:
        threshold: in degrees.
        options: of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, threshold: float, **options: Any) -> None:
        super().__init__(2, **options)
        self.threshold = threshold

    def sums(self, angles: Tensor, weight: Tensor | None) -> Tensor:
        """Return the number of near pixels, and of all."""
        return _per_pixel((angles < self.threshold).long(), weight)

    def compute(self) -> Tensor:
        """Return the share (), nan without a pixel."""
        return self.ratio()


def _per_pixel(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return (2,) the sum of integers (N,), and their number; or both weighed."""
    table = torch.stack([values, torch.ones_like(values)])
    return (table if weight is None else table * weight).sum(1)
