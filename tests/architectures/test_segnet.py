from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import MTAN, CrossStitch, SegNet
from mtl_lightning.types import ConfigurationError, TensorSpec

ODD = TensorSpec((3, 13, 22))


@pytest.mark.parametrize("upsampling", ["indices", "nearest"])
@pytest.mark.parametrize("sides", [(8, 8), (13, 22), (15, 9)])
def test_features_have_the_pictures_height_and_width(upsampling: Any, sides: tuple[int, int]) -> None:
    encoder = SegNet(TensorSpec((3, *sides)), widths=(4, 6, 8), upsampling=upsampling)
    assert encoder(torch.randn(2, 3, *sides)).shape == (2, 4, *sides)
    assert encoder.out_features == (4, *sides)


def test_values_go_back_to_where_the_maximum_was() -> None:
    encoder = SegNet(TensorSpec((1, 4, 6)), widths=(1,)).eval()
    passing = nn.Identity()
    encoder.down[0], encoder.up[0] = passing, passing
    pictures = torch.arange(24.0).reshape(1, 1, 4, 6)
    pictures[0, 0, 0, 0] = 50  # the largest of its four pixels, which is not the last one of them
    expected = torch.zeros(4, 6)
    for row, column in [(0, 0), (1, 3), (1, 5), (3, 1), (3, 3), (3, 5)]:
        expected[row, column] = pictures[0, 0, row, column]
    assert torch.equal(encoder(pictures)[0, 0], expected)


def test_levels_are_those_of_the_literature() -> None:
    encoder = SegNet(TensorSpec((3, 32, 32)))
    shapes = [tuple(m.weight.shape[:2][::-1]) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    down = [(3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    up = [(512, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64), (64, 64)]
    assert shapes == [*down, *up]


def test_with_repeated_values_every_level_is_a_stage() -> None:
    encoder, pictures = SegNet(ODD, widths=(4, 6), upsampling="nearest").eval(), torch.randn(2, 3, 13, 22)
    maps, sides = pictures, []
    for stage in encoder.stages:
        maps = stage(maps)
        sides.append(tuple(maps.shape[1:]))
    assert sides == [(4, 6, 11), (6, 3, 5), (4, 6, 11), (4, 13, 22)]
    assert torch.equal(maps, encoder(pictures))


@pytest.mark.parametrize("architecture", [MTAN, CrossStitch])
def test_sharing_stage_by_stage_needs_repeated_values(architecture: Any) -> None:
    network = architecture(ODD, ["a", "b"], encoder=partial(SegNet, widths=(4, 6), upsampling="nearest"))
    assert network(torch.randn(2, 3, 13, 22), ["b"]).per_task["b"].shape == (2, 4, 13, 22)
    with pytest.raises(ConfigurationError, match="SegNet: expected an attribute `stages`"):
        architecture(ODD, ["a", "b"], encoder=partial(SegNet, widths=(4, 6)))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (TensorSpec((3, 8, 7)), {"widths": (4, 4, 4)}, "SegNet of 3 levels: .* at least 8 pixels, found 8 x 7; resize"),
        (TensorSpec((3, 8, None)), {"widths": (4,)}, "SegNet of 1 levels: .* found 8 x None"),
        (TensorSpec((8,)), {}, "SegNet takes floating-point pictures"),
        (ODD, {"widths": ()}, r"Expected as `convolutions` and the number of `widths` .* found \(2, 0\)"),
        (
            ODD,
            {"widths": (4,), "upsampling": "bicubic"},
            "expected `upsampling` 'indices' or 'nearest', found 'bicubic'",
        ),
    ],
)
def test_says_what_is_wrong(spec: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SegNet(spec, **options)
