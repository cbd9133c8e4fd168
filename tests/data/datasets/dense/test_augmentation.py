"""Augmented maps against scenes that are rendered anew."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.data.datasets.dense.augmentation import (
    Depth,
    Disparity,
    MapKind,
    Normals,
    Picture,
    ScaleCropFlip,
    bilinear,
    cut_out,
    nearest,
)
from mtl_lightning.data.datasets.synthetic_shapes import Scenes, draw_scenes, render
from mtl_lightning.data.seeding import generator_of

SIDES = (24, 36)
KINDS: dict[str, MapKind] = {"image": Picture(), "label": MapKind(), "depth": Depth(), "normals": Normals()}


def maps() -> dict[str, Tensor]:
    """A scene of `SyntheticShapes` with its position as the picture, and some pixels invalid."""
    classes, depth, normals, _ = (part[0] for part in render(draw_scenes(1, 3, SIDES, generator_of(3)), SIDES))
    holes = torch.rand(SIDES) < 0.2
    return {
        "image": position(),
        "label": classes.masked_fill(holes, -1),
        "depth": depth.masked_fill(holes, 0.0),
        "normals": normals.masked_fill(holes, 0.0),
    }


def position() -> Tensor:
    """The row and the column of each pixel (2, H, W)."""
    return torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(36.0), indexing="ij"))


# ------------------------------------------------------------------------------------------------------------ mirroring
def test_mirrored_maps_are_those_of_the_mirrored_scene() -> None:
    scenes = draw_scenes(5, 3, SIDES, generator_of(0))
    left = torch.tensor([-1.0, 1.0])
    mirrored = Scenes(
        scenes.kinds, scenes.centres * left, scenes.radii, scenes.depths, scenes.slopes * left, scenes.tints
    )
    for scene in range(5):
        found, expected = (
            {"label": c[scene], "depth": d[scene], "normals": n[scene]}
            for c, d, n, _ in (render(scenes, SIDES), render(mirrored, SIDES))
        )
        for name, value in expected.items():
            torch.testing.assert_close(KINDS[name].mirrored(found[name]), value)


# ------------------------------------------------------------------------------------------------------------ enlarging
def plane(normal: Tensor, middle: tuple[float, float], focal: float = 30.0) -> tuple[Tensor, Tensor]:
    """Depth (H, W) and normals (3, H, W) of the plane ``normal . P = 4``, seen in perspective.

    A point P is seen at the pixel P_xy / P_z * focal + middle; normals have z towards the viewer, so away from P_z.
    """
    y, x = ((torch.arange(side) + 0.5 - at) / focal for side, at in zip(SIDES, middle, strict=True))
    sight = torch.stack([x.expand(SIDES), y[:, None].expand(SIDES), torch.ones(SIDES)])
    depth = 4 / torch.einsum("c,chw->hw", normal, sight)
    facing = F.normalize(torch.stack([-normal[0], -normal[1], normal[2]]), dim=0)
    return depth, facing[:, None, None].expand(3, *SIDES)


def test_enlarged_maps_are_those_of_a_scene_that_is_nearer() -> None:
    """Enlarging 3 times divides depths by 3, as of a scene compressed along the line of sight."""
    normal, top, left = torch.tensor([0.3, -0.2, 1.0]), 5, 7
    depth, normals = plane(normal, (12.0, 18.0))
    nearer = plane(normal * torch.tensor([1.0, 1.0, 3.0]), (3 * (12.0 - top), 3 * (18.0 - left)))
    centres = (..., slice(1, None, 3), slice(1, None, 3))  # where pixels of both have the same centre
    found = cut_out(depth, Depth(), top, left, 3.0)
    torch.testing.assert_close(found[centres], nearer[0][centres])
    found = cut_out(1 / depth, Disparity(), top, left, 3.0)
    torch.testing.assert_close(found[centres], 1 / nearer[0][centres])
    torch.testing.assert_close(cut_out(normals, Normals(tilt=True), top, left, 3.0), nearer[1])
    torch.testing.assert_close(cut_out(normals, Normals(), top, left, 3.0), normals)  # the literature's way


@pytest.mark.parametrize("scale", [1.2, 1.5, 2.0])
def test_picture_and_labels_stay_in_register(scale: float) -> None:
    """The picture holds each pixel's position, which the label next to it has to have come from."""
    grid = maps()["image"]
    for top, left in ((0, 0), (4, 6), (24 - int(24 / scale), 36 - int(36 / scale))):
        picture, label = (cut_out(grid, kind, top, left, scale) for kind in (Picture(), MapKind()))
        assert (picture - label)[:2].abs().max() <= 0.501
        inner = label[:, 2:-2, 2:-2] - picture[:, 2:-2, 2:-2]
        assert inner[:2].mean((1, 2)).abs().max() < 0.2  # no shift to one side, but for ties that go to the next pixel


def test_resizing_is_torchs() -> None:
    image = torch.rand(3, 8, 10)
    assert torch.equal(nearest(image, (24, 25)), F.interpolate(image[None], (24, 25), mode="nearest-exact")[0])
    assert torch.equal(bilinear(image, (24, 25)), F.interpolate(image[None], (24, 25), mode="bilinear")[0])


# ------------------------------------------------------------------------------------------------------- invalid values
def test_invalid_depths_do_not_mix_with_others() -> None:
    depth = maps()["depth"]
    depth[3] = torch.nan
    found = cut_out(depth, Depth(), 2, 3, 1.5)
    values = depth[2:18, 3:27] / 1.5
    assert {*found[~found.isnan()].tolist()} <= {*values.flatten().tolist()}
    assert 0.1 < (found == 0).float().mean() < 0.3
    assert found.isnan().any()


def test_normals_keep_their_length_and_are_valid_where_the_nearest_is() -> None:
    normals = maps()["normals"]
    normals[:, 3, ::2] = torch.nan
    valid = (normals != 0).any(0) & ~normals.isnan().any(0)
    found = cut_out(normals, Normals(), 2, 3, 1.5)
    kept = nearest(valid[2:18, 3:27], SIDES)
    torch.testing.assert_close(found.norm(dim=0), kept.float())
    constant = torch.where(valid, torch.tensor([0.6, 0.2, 0.7746])[:, None, None], 0.0)
    direction = F.normalize(torch.tensor([0.6, 0.2, 0.7746]), dim=0)
    found = cut_out(constant, Normals(), 2, 3, 1.5)
    torch.testing.assert_close(found[:, kept], direction[:, None].expand(3, int(kept.sum())))


# -------------------------------------------------------------------------------------------------------- random draws
def test_all_maps_are_transformed_alike_and_repeatably() -> None:
    """Every pixel has a class and a depth of its own, and a normal that is a smooth function of its place."""
    number = torch.arange(24 * 36).reshape(SIDES)

    def facing(place: Tensor) -> Tensor:
        return F.normalize(torch.stack([place[1] - 17.5, place[0] - 11.5, torch.full(SIDES, 30.0)]), dim=0)

    given = {"image": position(), "label": number, "depth": number + 1.0, "normals": facing(position())}
    augment, windows = ScaleCropFlip(), set()
    for seed in range(30):
        torch.manual_seed(seed)
        made = augment(given, KINDS)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        assert all(torch.equal(made[name], value) for name, value in augment(given, KINDS).items())
        torch.manual_seed(seed)
        torch.rand(4)
        assert torch.equal(torch.get_rng_state(), after)  # always as many
        rows, columns = made["image"]
        flipped = bool(columns[0, 0] > columns[0, -1])
        high, wide = (round(float(axis.max() - axis.min())) + 1 for axis in (rows, columns))
        windows.add((high, wide, flipped))
        torch.testing.assert_close(made["depth"] * 24 / high, made["label"] + 1.0)
        assert (made["label"] // 36 - rows).abs().max() <= 0.51
        assert (made["label"] % 36 - columns).abs().max() <= 0.51
        expected = facing(made["image"]) * torch.tensor([-1.0 if flipped else 1.0, 1.0, 1.0])[:, None, None]
        torch.testing.assert_close(made["normals"], expected, atol=1e-3, rtol=0)
    assert windows == {(h, w, f) for h, w in ((24, 36), (20, 30), (16, 24)) for f in (False, True)}


def test_without_scales_and_flips_nothing_changes() -> None:
    given = maps()
    made = ScaleCropFlip(scales=[1.0], flip=0.0)(given, KINDS)
    assert all(torch.equal(made[name], value) for name, value in given.items())
