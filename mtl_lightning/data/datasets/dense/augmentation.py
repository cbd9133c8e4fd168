"""Augmentation of pictures together with their label maps: random enlarged cut-outs, and mirroring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError


class MapKind:
    """What becomes of a map (C, H, W) or (H, W) when its picture is enlarged or mirrored; by default a label map."""

    def zoomed(self, values: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        """Enlarge a cut-out to ``size``, its height and width having been divided by ``scale``: nearest pixel."""
        return nearest(values, size)

    def mirrored(self, values: Tensor) -> Tensor:
        """Exchange left and right."""
        return values.flip(-1)


class Picture(MapKind):
    """Colours: enlarged bilinearly."""

    def zoomed(self, values: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        """Enlarge a cut-out."""
        return bilinear(values, size)


class Depth(MapKind):
    """Distances: what looks larger is nearer, so that they are divided by the scale."""

    def zoomed(self, values: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        """Enlarge a cut-out: nearest pixel, so that invalid values do not mix with others."""
        return nearest(values, size) / scale


class Disparity(MapKind):
    """Inverse distances: multiplied by the scale."""

    def zoomed(self, values: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        """Enlarge a cut-out: nearest pixel, so that invalid values do not mix with others."""
        return nearest(values, size) * scale


class Normals(MapKind):
    """Unit vectors (3, H, W), x to the right; (0, 0, 0) or nan is invalid, and comes back as (0, 0, 0).

    Enlarged bilinearly over the valid pixels around, and scaled to the length 1 again; what is valid is decided by the
    nearest pixel. Mirroring negates x.

    Args:
        tilt: follow the depth. Depths divided by the scale are a scene that is compressed along the line of sight, in
            which a plane with the normal (x, y, z) has the normal (x, y, scale * z), up to its length. The literature
            leaves normals as they are; so does False.
    """

    def __init__(self, tilt: bool = False) -> None:
        self.tilt = tilt

    def zoomed(self, values: Tensor, size: tuple[int, int], scale: float) -> Tensor:
        """Enlarge a cut-out."""
        valid = (values != 0).any(0) & ~values.isnan().any(0)
        mixed = bilinear(torch.where(valid, values, 0.0), size)
        if self.tilt:
            mixed = torch.cat([mixed[:2], scale * mixed[2:]])
        return torch.where(nearest(valid, size), F.normalize(mixed, dim=0), 0.0)

    def mirrored(self, values: Tensor) -> Tensor:
        """Exchange left and right."""
        mirrored = values.flip(-1)
        return torch.cat([-mirrored[:1], mirrored[1:]])


class ScaleCropFlip(Ranged):
    """Random cut-outs of 1 / scale of the height and width, enlarged to the whole; and mirroring.

    That of the NYUv2 and Cityscapes experiments of `End-to-End Multi-Task Learning with Attention
    <https://arxiv.org/abs/1803.10704>`_ (Liu et al., 2019) and what follows it. Departures: pictures and labels are
    resized on one grid, pixel centres on pixel centres, where published code has corners on corners for pictures and
    the pixel to the upper left for labels, up to a pixel apart; normals have the length 1 again; and disparities are
    multiplied by the scale, where much published code divides them as if they were depths.

    It draws four numbers from torch's global random state on each call, whatever they turn out to be.

    Args:
        scales: from which one is drawn, all equally likely; each at least 1.
        flip: the probability of mirroring.

    Raises:
        ConfigurationError: for other scales, or if ``flip`` is no probability.
    """

    def __init__(self, scales: Sequence[float] = (1.0, 1.2, 1.5), flip: float = 0.5) -> None:
        if not scales:
            raise ConfigurationError("ScaleCropFlip: expected at least one of `scales`, found none.")
        self.scales, self.flip = tuple(scales), flip

    def __call__(self, maps: Mapping[str, Tensor], kinds: Mapping[str, MapKind]) -> dict[str, Tensor]:
        """Transform maps (C, H, W) or (H, W) of one scene alike, each as its kind needs it."""
        height, width = next(iter(maps.values())).shape[-2:]
        choice, down, right, mirror = torch.rand(4).tolist()
        scale = self.scales[int(choice * len(self.scales))]
        size = (int(height / scale), int(width / scale))
        top, left = (
            int(draw * (whole - part + 1))
            for draw, whole, part in zip((down, right), (height, width), size, strict=True)
        )
        made = dict(maps)
        if size != (height, width):
            made = {name: cut_out(value, kinds[name], top, left, scale) for name, value in made.items()}
        return {name: kinds[name].mirrored(value) for name, value in made.items()} if mirror < self.flip else made


def cut_out(values: Tensor, kind: MapKind, top: int, left: int, scale: float) -> Tensor:
    """Cut (H / scale) x (W / scale) pixels, rounded down, out of a map (C, H, W) or (H, W); enlarge them to H x W."""
    height, width = values.shape[-2:]
    part = values[..., top : top + int(height / scale), left : left + int(width / scale)]
    return kind.zoomed(part, (height, width), scale)


def nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (C, H, W) or (H, W) of any dtype: each pixel is that whose area holds its centre."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, values.shape[-2:], strict=True)
    )
    return values[..., rows[:, None], columns]


def bilinear(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map (C, H, W) of floats bilinearly, pixel centres on pixel centres."""
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
