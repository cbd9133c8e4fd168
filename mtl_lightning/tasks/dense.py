"""What the tasks with a label per pixel have in common: shapes, sizes, dtypes and messages."""

from __future__ import annotations

from abc import abstractmethod
from math import gcd
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.tasks.base import MetricFactories, Task, feed, per_element
from mtl_lightning.types import ConfigurationError, Likelihood, TargetError, TargetSpec

_PIXELS = 1024  # of a picture that may get into the sample for the trivial predictor


class DenseTask(Task):
    """A task with outputs (B, K, H, W) and targets (B, H, W), (B, 1, H, W) or (B, C, H, W); an element is a pixel.

    A subclass works on *maps*: the target's values, (B, H, W), or (B, C, H, W) for ``channels = C``, whose dtype and
    shape have been checked. Looking at dtypes and shapes costs no host sync, so it is done on every call.

    A network may work at another resolution than its labels have. Outputs are then resized to the target's height and
    width before the loss and the metrics see them, and to those of the TargetSpec, if it has any, in :meth:`predict`:
    bilinearly, corners on corners, as the dense heads do it. :meth:`estimate` keeps the size of the outputs.

    Args:
        spec: what the data knows of the target: shape (H, W), or (C, H, W); or () where the size varies.
        output_size: K.
        estimate_size: E.
        likelihood: the form of the uncertainty term that fits the loss.
        metrics: metrics by name, in place of the default ones.

    Attributes:
        channels: C; None for a target with one value per pixel.
        dtypes: the dtypes that targets may have, in words.
        values: the values that targets may have, in words.

    Raises:
        ConfigurationError: for a shape that is no map.
    """

    channels: ClassVar[int | None] = None
    dtypes: ClassVar[str] = "a floating-point dtype"
    values: str

    def __init__(
        self,
        spec: TargetSpec,
        *,
        output_size: int,
        estimate_size: int,
        likelihood: Likelihood,
        metrics: MetricFactories | None,
    ) -> None:
        super().__init__(
            spec, output_size=output_size, estimate_size=estimate_size, likelihood=likelihood, metrics=metrics
        )
        first, *sides = spec.shape if len(spec.shape) == 3 else (1, *spec.shape)
        fits = first == (self.channels or 1) and (len(spec.shape) == 3 or self.channels is None)
        if spec.shape and (len(sides) != 2 or not fits or min(sides) < 1):
            shape = "(H, W) or (1, H, W)" if self.channels is None else f"({self.channels}, H, W)"
            raise ConfigurationError(
                f"{type(self).__name__}: expected the shape {shape} in the TargetSpec, or () where the size varies, "
                f"found {spec.shape}."
            )
        self.size: tuple[int, int] | None = (sides[0], sides[1]) if spec.shape else None

    # ------------------------------------------------------------------------------------------ what a subclass gives
    @abstractmethod
    def accepts(self, dtype: torch.dtype) -> bool:
        """Can a target have this dtype?"""

    @abstractmethod
    def is_labelled(self, maps: Tensor) -> Tensor:
        """Map maps to a bool mask (B, H, W)."""

    @abstractmethod
    def is_valid(self, maps: Tensor) -> Tensor:
        """Map maps to a bool mask of their shape; missing labels are valid."""

    @abstractmethod
    def losses(self, output: Tensor, maps: Tensor, mask: Tensor) -> Tensor:
        """Map outputs (B, K, H, W), maps and the mask of labelled pixels to one loss per pixel (B, H, W).

        Unlabelled pixels are filled with 0.
        """

    @abstractmethod
    def for_metrics(self, output: Tensor) -> Tensor:
        """Map outputs (B, K, H, W) to what metrics compare with the maps, in their shape."""

    # ---------------------------------------------------------------------------------------------------- the contract
    def maps(self, target: Tensor) -> Tensor:
        """Return the target as (B, H, W), from (B, H, W) or (B, 1, H, W), or as (B, C, H, W).

        Raises:
            TargetError: for another dtype or shape.
        """
        name = type(self).__name__
        if not self.accepts(target.dtype):
            raise TargetError(
                f"{name}: expected {self.values} in a target of {self.dtypes}, found {target.dtype}. Convert the "
                "target in your data, missing labels included."
            )
        if self.channels is None and target.dim() == 4 and target.shape[1] == 1:
            target = target[:, 0]
        channels = () if self.channels is None else (self.channels,)
        sides = tuple(target.shape[-2:])
        if target.dim() != 3 + len(channels) or tuple(target.shape[1:-2]) != channels or sides != (self.size or sides):
            height, width = self.size or ("H", "W")
            end = f"{height}, {width})"
            expected = f"(B, {end} or (B, 1, {end}" if self.channels is None else f"(B, {self.channels}, {end}"
            raise TargetError(
                f"{name}: expected a target of shape {expected}, found {tuple(target.shape)}. Reshape it in your data, "
                "or correct the task's TargetSpec."
            )
        return target

    def labelled(self, target: Tensor) -> Tensor:
        """Map a target to a bool mask (B, H, W)."""
        return self.is_labelled(self.maps(target))

    def invalid(self, target: Tensor) -> Tensor:
        """Return () bool: does the target hold a value that this task cannot take?"""
        return ~self.is_valid(self.maps(target)).all()

    def check(self, target: Tensor) -> None:
        """Check dtype, shape and values.

        Raises:
            TargetError: that shows the first value which cannot be right, and the row and the pixel (y, x) it is at.
        """
        maps = self.maps(target)
        bad = (~self.is_valid(maps)).nonzero()
        if len(bad):
            row, *_, y, x = bad[0].tolist()
            raise TargetError(
                f"{type(self).__name__}: expected {self.values}, found {maps[tuple(bad[0])].item()} in row {row}, "
                f"pixel ({y}, {x}). Correct the target in your data, or mark the pixel as missing."
            )

    def picked(self, target: Tensor) -> Tensor:
        """Return at most 1024 pixels of each picture, spread evenly over it: (N,), or (N, C)."""
        maps = self.maps(target)
        chosen = _some_pixels(maps)
        return (chosen if self.channels is None else chosen.movedim(1, -1)).flatten(0, 1)

    def calibration_rows(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs (N, K) and targets (N, D) of those pixels, and which are labelled (N, 1)."""
        maps = self.maps(target)
        outputs = _some_pixels(resized(self.outputs(output), (maps.shape[-2], maps.shape[-1])))
        rows = self.picked(target)
        return outputs.movedim(1, -1).flatten(0, 1), rows.reshape(len(rows), -1), self.has_label(rows).unsqueeze(1)

    def has_label(self, rows: Tensor) -> Tensor:
        """Map pixels (N,) or (N, C) to (N,) bool."""
        return self.is_labelled(rows[..., None, None]).reshape(-1)

    def rows_loss(self, output: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """Return () the sum of the losses of outputs (N, K) over labelled pixels (N,) or (N, C)."""
        mask = torch.ones(len(rows), 1, 1, dtype=torch.bool, device=rows.device)
        return (self.losses(output[..., None, None], rows[..., None, None], mask).reshape(-1) * weight).sum()

    def elementwise_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Map outputs (B, K, H, W), of any height and width, and a target to one loss per pixel (B, H, W)."""
        maps = self.maps(target)
        output = self.outputs(output)
        if len(output) != len(maps):
            raise TargetError(f"{type(self).__name__}: expected {len(output)} targets, found {len(maps)}.")
        mask = self.is_labelled(maps)
        filled = torch.where(mask if self.channels is None else mask[:, None], maps, 0)
        return self.losses(resized(output, (maps.shape[-2], maps.shape[-1])), filled, mask)

    def outputs(self, output: Tensor) -> Tensor:
        """Return outputs (B, K, H, W) as they are.

        Raises:
            ConfigurationError: for another shape, which a head for vectors, or a network of the user's own, may give.
        """
        if output.dim() != 4 or output.shape[1] != self.output_size:
            raise ConfigurationError(
                f"{type(self).__name__}: expected outputs of shape (B, {self.output_size}, H, W), found "
                f"{tuple(output.shape)}. Use an encoder that does not pool, such as SegNet or a ResNet with "
                "`pool: false`; a network that returns final outputs must give them."
            )
        return output

    def precise(self, output: Tensor) -> Tensor:
        """Return outputs (B, K, H, W) in float32 or better, at the size of the TargetSpec if it has one."""
        output = self.outputs(output)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return output if self.size is None else resized(output, self.size)

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Feed the labelled pixels to ``metrics``: (N,), or (N, C); does nothing where there is none."""
        maps = self.maps(target)
        mask = self.is_labelled(maps)
        weights = None if weight is None else per_element(weight, mask)
        if weights is not None:
            mask = mask & (weights > 0)
        if mask.any():
            found = self.for_metrics(resized(self.outputs(output.detach()), (maps.shape[-2], maps.shape[-1])))
            pair = (found, maps) if self.channels is None else (found.movedim(1, -1), maps.movedim(1, -1))
            feed(metrics, pair[0][mask], pair[1][mask], None if weights is None else weights[mask])


def _some_pixels(maps: Tensor) -> Tensor:
    """Return at most 1024 pixels (B, *, N) of maps (B, *, H, W)."""
    pixels = maps.flatten(-2)
    step = max(1, -(-pixels.shape[-1] // _PIXELS))
    while gcd(step, maps.shape[-1]) > 1:  # or some columns of the picture would never be met
        step += 1
    return pixels[..., ::step]


def resized(output: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize outputs (B, K, H, W) bilinearly, corners on corners; as they are if they have the size already."""
    if tuple(output.shape[-2:]) == size:
        return output
    return F.interpolate(output, size=size, mode="bilinear", align_corners=True)
