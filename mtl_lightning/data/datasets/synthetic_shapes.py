"""Pictures of spheres, boxes and ramps with their classes, depth and surface normals: a dense problem, made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtl_lightning.data.base import MultiTaskDataModule, Split, TaskFactory, TaskOverrides
from mtl_lightning.data.rows import TensorRows
from mtl_lightning.data.seeding import generator_of
from mtl_lightning.tasks.depth import DepthEstimation
from mtl_lightning.tasks.rows import MISSING
from mtl_lightning.tasks.segmentation import SemanticSegmentation
from mtl_lightning.tasks.surface_normals import SurfaceNormals
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict

CLASSES = ("background", "sphere", "box", "ramp")
_COLOURS = torch.tensor([[0.6, 0.6, 0.6], [0.9, 0.6, 0.4], [0.4, 0.9, 0.6], [0.6, 0.4, 0.9]])
_LIGHTS = torch.tensor([[0.6, 0.0, 0.8], [-0.36, -0.48, 0.8], [-0.36, 0.48, 0.8]])  # directions to the red, green, blue


class SyntheticShapes(MultiTaskDataModule):
    """Spheres, boxes and ramps before a slanted wall: tasks ``segmentation``, ``depth`` and ``normals``.

    A problem for dense networks that needs no download and trains in seconds. A scene is seen without perspective, its
    picture's height being 1 unit: a wall at a depth of about 3 units, slanted at random, and up to ``shapes`` shapes
    before it, each a sphere, a box (of which the front is seen) or a ramp (a plane that rises or falls). Depth and
    normals follow from their equations, pixel by pixel; nearer shapes hide farther ones. Normals point at the viewer;
    x is to the right, y down, z towards the viewer. Three coloured lights from three sides, fog that grows with the
    depth, colours by class that vary from shape to shape, and noise make the picture.

    Inputs are (B, 3, H, W) float32, about 0..1; targets (B, H, W) int64 (0 wall, 1 sphere, 2 box, 3 ramp), (B, H, W)
    and (B, 3, H, W) float32.

    Args:
        sizes: number of pictures for training, validation and test.
        height: of a picture, in pixels.
        width: of a picture, in pixels.
        shapes: the largest number of shapes in a picture.
        noise: standard deviation of the noise on each colour.
        missing: the share of training pixels whose label to drop, independently for each task.
        batch_size: rows of a batch of one process.
        tasks: other tasks for declared names, as functions of the ``TargetSpec``; None removes a task.
        seed: of the scenes, the noise, the dropped labels and the order of the training rows.
        num_workers: processes that read rows ahead.
        drop_last: leave out the last batch of a training epoch where it would be short.

    Raises:
        ConfigurationError: for sizes below 1, or if ``missing`` is no share.
    """

    def __init__(
        self,
        *,
        sizes: tuple[int, int, int] = (600, 100, 100),
        height: int = 32,
        width: int = 48,
        shapes: int = 4,
        noise: float = 0.02,
        missing: float = 0.0,
        batch_size: int = 16,
        tasks: TaskOverrides | None = None,
        seed: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, tasks=tasks, seed=seed, num_workers=num_workers, drop_last=drop_last)
        if len(sizes) != 3:
            raise ConfigurationError(f"SyntheticShapes: expected `sizes` of 3 splits, found {tuple(sizes)}.")
        self.sizes: dict[Split, int] = {"train": sizes[0], "val": sizes[1], "test": sizes[2]}
        self.sides, self.shapes, self.noise, self.missing = (height, width), shapes, noise, missing

    def read_schema(self) -> dict[str, Any]:
        """Return the input spec and the names of the classes."""
        return {"input_spec": input_spec_to_dict(TensorSpec((3, *self.sides))), "classes": list(CLASSES)}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        """Return the three dense tasks."""
        sides, names = tuple(self.schema["input_spec"]["tensor"]["shape"][1:]), tuple(self.schema["classes"])
        return {
            "segmentation": (TargetSpec(sides, classes=len(names), names=names), SemanticSegmentation),
            "depth": (TargetSpec(sides, units="heights of the picture"), partial(DepthEstimation, standardize=True)),
            "normals": (TargetSpec((3, *sides)), SurfaceNormals),
        }

    def rows(self, split: Split) -> TensorRows:
        """Make the pictures of a split."""
        random = generator_of(self.seed, split)
        scenes = draw_scenes(self.sizes[split], self.shapes, self.sides, random)
        classes, depth, normals, which = render(scenes, self.sides)
        picture = paint(scenes, classes, depth, normals, which)
        picture += self.noise * torch.randn(picture.shape, generator=random)
        targets = {"segmentation": classes, "depth": depth, "normals": normals}
        if split == "train" and self.missing:
            targets = {name: self._with_gaps(name, target) for name, target in targets.items()}
        return TensorRows(picture, targets)

    def _with_gaps(self, name: str, target: Tensor) -> Tensor:
        pixels = (len(target), *self.sides)
        drop = torch.rand(pixels, generator=generator_of(self.seed, "missing", name)) < self.missing
        if not target.is_floating_point():
            return target.masked_fill(drop, self.missing_labels.get(name, MISSING))
        return target.masked_fill(drop if target.dim() == 3 else drop[:, None], torch.nan)


@dataclass(frozen=True)
class Scenes:
    """N scenes of S surfaces each, the first one the wall; lengths in heights of the picture.

    Args:
        kinds: (N, S) int64, a class each.
        centres: (N, S, 2), x to the right and y down, from the middle of the picture.
        radii: (N, S, 2), of a sphere (both the same), or half the width and height of a box or ramp.
        depths: (N, S), at the centre of a plane, or of the sphere.
        slopes: (N, S, 2), the depth gained along x and along y; 0 for spheres and boxes.
        tints: (N, S, 3), factors on the colour.
    """

    kinds: Tensor
    centres: Tensor
    radii: Tensor
    depths: Tensor
    slopes: Tensor
    tints: Tensor

    def split(self, number: int) -> Iterator[Scenes]:
        """Yield the scenes in parts of at most ``number``."""
        for start in range(0, len(self.kinds), number):
            yield Scenes(*(getattr(self, field.name)[start : start + number] for field in fields(self)))


def draw_scenes(number: int, shapes: int, sides: tuple[int, int], random: torch.Generator) -> Scenes:
    """Draw scenes of a wall and 1 to ``shapes`` shapes; the ones left over lie behind the wall."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(number, *size, generator=random)

    kinds = torch.randint(1, len(CLASSES), (number, shapes), generator=random)
    present = torch.arange(shapes) < torch.randint(1, shapes + 1, (number, 1), generator=random)
    half = torch.tensor([sides[1] / sides[0] / 2, 0.5])
    radii = uniform(0.2, 0.45, shapes, 2)
    radii = torch.where((kinds == 1)[..., None], radii[..., :1], radii)
    slopes = uniform(0.4, 1.2, shapes, 2) * (2.0 * torch.randint(2, (number, shapes, 2), generator=random) - 1)
    slopes = torch.where((kinds == 3)[..., None], slopes, 0.0)
    depths = torch.where(present, uniform(1.4, 2.2, shapes), 100.0)
    wall = torch.zeros(number, 1, dtype=torch.int64)
    return Scenes(
        kinds=torch.cat([wall, kinds], 1),
        centres=torch.cat([torch.zeros(number, 1, 2), uniform(-0.9, 0.9, shapes, 2) * half], 1),
        radii=torch.cat([torch.full((number, 1, 2), torch.inf), radii], 1),
        depths=torch.cat([uniform(2.8, 3.2, 1), depths], 1),
        slopes=torch.cat([uniform(-0.2, 0.2, 1, 2), slopes], 1),
        tints=uniform(0.8, 1.1, shapes + 1, 3),
    )


def render(scenes: Scenes, sides: tuple[int, int]) -> tuple[Tensor, ...]:
    """See scenes without perspective.

    Returns:
        Classes (N, H, W), depth (N, H, W), unit normals (N, 3, H, W), and the surface (N, H, W) that is seen.
    """
    parts = [_render(part, sides) for part in scenes.split(50)]  # small enough to stay in a processor's cache
    return tuple(torch.cat(maps) for maps in zip(*parts, strict=True))


def _render(scenes: Scenes, sides: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = sides
    y = (torch.arange(height) + 0.5) / height - 0.5
    x = (torch.arange(width) + 0.5) / height - width / height / 2
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    away = grid - scenes.centres[:, :, None, None]  # (N, S, H, W, 2)
    radii = scenes.radii[:, :, None, None]
    sphere = (scenes.kinds == 1)[:, :, None, None]
    inside = torch.where(sphere, away.norm(dim=-1) < radii[..., 0], (away.abs() < radii).all(-1))
    rise = (radii[..., 0].square() - away.square().sum(-1)).clamp(min=1e-12).sqrt()  # of a sphere, towards the viewer
    plane = (away * scenes.slopes[:, :, None, None]).sum(-1)
    depth = scenes.depths[:, :, None, None] + torch.where(sphere, -rise, plane)
    nearest, which = torch.where(inside, depth, torch.inf).min(1)
    flat = scenes.slopes[:, :, None, None].expand_as(away)
    gradient = torch.where(sphere[..., None], away / rise[..., None], flat)  # of the depth, along x and y
    seen = gradient.gather(1, which[:, None, ..., None].expand(-1, 1, -1, -1, 2))[:, 0]
    normals = torch.cat([seen, torch.ones_like(seen[..., :1])], -1)
    normals = (normals / normals.norm(dim=-1, keepdim=True)).movedim(-1, 1)
    classes = scenes.kinds.gather(1, which.flatten(1)).reshape(which.shape)
    return classes, nearest, normals.contiguous(), which


def paint(scenes: Scenes, classes: Tensor, depth: Tensor, normals: Tensor, which: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W): colour by class and shape, a light from each side, fog by depth."""
    tints = scenes.tints.gather(1, which.flatten(1)[..., None].expand(-1, -1, 3)).reshape(*which.shape, 3)
    colour = (_COLOURS[classes] * tints).movedim(-1, 1)
    light = 0.25 + 0.75 * torch.einsum("lc,nchw->nlhw", _LIGHTS, normals).clamp(min=0)
    return colour * light * torch.exp(-depth / 4)[:, None]
