"""Surface normals: the direction in which the surface seen in each pixel faces."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.dense import DenseTask
from mtl_lightning.tasks.options import merged_spec
from mtl_lightning.tasks.surface_metrics import MeanAngularError, MedianAngularError, WithinAngle
from mtl_lightning.tasks.trivial import wide
from mtl_lightning.types import ConfigurationError, Likelihood, TargetSpec

_SHORTEST = 1e-3  # outputs shorter than this are not made longer, or their gradient would be without bound
_LIKELIHOODS = {
    "cosine": Likelihood(1.0, 1.0, "log_var"),
    "l1": Likelihood(1.0, 3.0, "log_scale"),
    "l2": Likelihood(0.5, 1.0, "log_var"),
}


class SurfaceNormals(DenseTask):
    """A direction (x, y, z) per pixel.

    Targets (B, 3, H, W): floats; (0, 0, 0), or ``nan`` in any component, is a pixel without a label. Other vectors
    count by their direction, whatever their length. A normal whose components merely add up to 0, such as
    (0.6, 0.2, -0.8), is a label like any other; published code, which masks by the sum, leaves it out.

    With p the output and y the target, both scaled to the length 1, the loss of a pixel is ``1 - p . y``. The
    uncertainty term of this ``"cosine"`` loss is ``exp(-s) * (1 - p . y) + s``: that of von Mises and Fisher's
    distribution on the sphere, whose concentration is ``exp(-s)``, as long as angles are small. sigma is then the
    standard deviation of the error along each of the two tangents, in radians.

    Metrics, of the angle between p and y over all valid pixels of the whole set, in degrees: ``mean_angle`` and
    ``median_angle`` (exact to 0.0004 degrees), lower is better; ``within_11_25``, ``within_22_5``, ``within_30``, the
    shares of pixels with a smaller angle, between 0 and 1, higher is better.

    Args:
        spec: what the data says: its shape is (3, H, W), or () where the size varies, as by default.
        loss: ``"cosine"``; ``"l1"``, the sum of ``|p_i - y_i|`` over the three components; or ``"l2"``, that of their
            squares, which is twice the first. A pixel is one element of each.
        metrics: metrics by name, in place of the default ones; they are fed unit vectors (N, 3), predicted and true.

    Raises:
        ConfigurationError: for another shape, or an unknown loss.
    """

    channels = 3
    values = "finite vectors, (0, 0, 0) or nan for missing"

    def __init__(
        self,
        spec: TargetSpec | None = None,
        *,
        loss: Literal["cosine", "l1", "l2"] = "cosine",
        metrics: MetricFactories | None = None,
    ) -> None:
        if loss not in _LIKELIHOODS:
            raise ConfigurationError(f"SurfaceNormals: expected `loss` to be in {list(_LIKELIHOODS)}, found {loss!r}.")
        spec = merged_spec("SurfaceNormals", spec)
        super().__init__(spec, output_size=3, estimate_size=3, likelihood=_LIKELIHOODS[loss], metrics=metrics)
        self.of_pixel = loss

    def accepts(self, dtype: torch.dtype) -> bool:
        """Floats only."""
        return dtype.is_floating_point

    def is_labelled(self, maps: Tensor) -> Tensor:
        """All components 0, or any of them nan, is no label."""
        return (maps != 0).any(1) & ~maps.isnan().any(1)

    def is_valid(self, maps: Tensor) -> Tensor:
        """Components are finite."""
        return ~maps.isinf()

    def losses(self, output: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of each pixel."""
        found, wanted = F.normalize(output, dim=1, eps=_SHORTEST), F.normalize(maps.to(output.dtype), dim=1)
        if self.of_pixel == "cosine":
            return 1 - (found * wanted).sum(1)
        difference = found - wanted
        return (difference.abs() if self.of_pixel == "l1" else difference.square()).sum(1)

    def trivial_prediction(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the mean direction (3,), which has the least loss of all (``l1``: nearly)."""
        directions = F.normalize(wide(rows), dim=1)
        return F.normalize((directions * wide(weight)[:, None]).sum(0), dim=0)

    def predict(self, output: Tensor) -> Tensor:
        """Map outputs (B, 3, H, W) to unit normals (B, 3, H, W)."""
        return self.for_metrics(self.precise(output))

    def estimate(self, output: Tensor) -> Tensor:
        """Map outputs (B, 3, H, W) to unit normals (B, 3, H, W)."""
        return F.normalize(self.outputs(output), dim=1, eps=_SHORTEST)

    def for_metrics(self, output: Tensor) -> Tensor:
        """Metrics see unit normals."""
        return F.normalize(output, dim=1, eps=torch.finfo(output.dtype).tiny)

    def default_metrics(self) -> MetricFactories:
        """Return the mean and the median angle, and the shares of pixels within 11.25, 22.5 and 30 degrees."""
        return {
            "mean_angle": MeanAngularError,
            "median_angle": MedianAngularError,
            "within_11_25": partial(WithinAngle, threshold=11.25),
            "within_22_5": partial(WithinAngle, threshold=22.5),
            "within_30": partial(WithinAngle, threshold=30.0),
        }
