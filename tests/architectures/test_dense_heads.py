from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import ASPP, BatchNorm, DeepLabHead, UpsamplingHead
from mtl_lightning.architectures.base import last_affine
from mtl_lightning.types import ConfigurationError


def test_the_pyramid_is_its_branches_side_by_side() -> None:
    pyramid = ASPP(4, 3, (2, 5), dropout=0.0).eval()
    maps = torch.randn(2, 4, 7, 9)
    rates = [branch[0].dilation for branch in pyramid.branches]  # type: ignore[index]  # sequences of layers
    assert rates == [(1, 1), (2, 2), (5, 5)]
    parts = [branch(maps) for branch in pyramid.branches]
    parts.append(pyramid.whole(maps.mean((2, 3))[:, :, None, None]).repeat(1, 1, 7, 9))
    torch.testing.assert_close(pyramid(maps), pyramid.project(torch.cat(parts, 1)))
    assert pyramid(maps).shape == (2, 3, 7, 9)


def test_one_picture_trains() -> None:
    head = DeepLabHead((4, 5, 6), 3, channels=8, rates=(2,))
    outputs = head(torch.randn(1, 4, 5, 6))  # the mean over the picture is one value per channel
    torch.autograd.backward([outputs.sum()])
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("cls", [DeepLabHead, UpsamplingHead])
def test_outputs_have_the_size_that_is_asked_for(cls: Any) -> None:
    features = torch.randn(2, 4, 5, 6)
    assert cls((4, 5, 6), 3)(features).shape == (2, 3, 5, 6)
    assert cls((4, 5, 6), 3, size=[33, 47])(features).shape == (2, 3, 33, 47)


def test_upsampling_is_bilinear_from_corner_to_corner() -> None:
    head = UpsamplingHead((1, 2, 2), 1, size=(3, 3))
    layer = head.get_submodule("layers.0.map")
    nn.init.ones_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))
    outputs = head(torch.tensor([[[[0.0, 2.0], [4.0, 8.0]]]]))
    expected = torch.tensor([[0.0, 1.0, 2.0], [2.0, 3.5, 5.0], [4.0, 6.0, 8.0]])
    torch.testing.assert_close(outputs[0, 0], expected)


@pytest.mark.parametrize("cls", [DeepLabHead, UpsamplingHead])
def test_the_last_affine_map_scales_the_outputs(cls: Any) -> None:
    head, maps = cls((4, 5, 6), 3, size=(11, 13)).eval(), torch.randn(2, 4, 5, 6)
    before = head(maps)
    with torch.no_grad():
        for parameter in last_affine(head, "depth").parameters():
            parameter.mul_(3.0)
    torch.testing.assert_close(head(maps), 3 * before)


def test_hidden_layers_are_convolutions() -> None:
    head = UpsamplingHead((4, 5, 6), 3, hidden=(8, 7))
    kernels = [tuple(m.weight.shape) for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(8, 4, 3, 3), (7, 8, 3, 3), (3, 7, 1, 1)]
    assert len([m for m in head.modules() if isinstance(m, BatchNorm)]) == 2


def test_the_deeplab_head_is_that_of_the_literature() -> None:
    head = DeepLabHead((2048, 4, 4), 13)
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convolutions] == [1, 12, 24, 36, 1, 1, 1, 1]
    assert [m.kernel_size[0] for m in convolutions] == [1, 3, 3, 3, 1, 1, 3, 1]
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.5]


@pytest.mark.parametrize("cls", [DeepLabHead, UpsamplingHead])
@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((6,), {}, r"expected features that are maps \(D, H, W\) a row, found \(6,\); use Linear or MLPHead for"),
        ((6, 4, 3), {"size": (0.5, 4)}, r"`size`: expected a finite number of at least 1, found 0.5"),
    ],
)
def test_says_what_is_wrong(cls: Any, size: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        cls(size, 3, **options)
