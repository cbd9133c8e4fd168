from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import BatchNorm, ResNet
from mtl_lightning.types import ConfigurationError, TableSpec, TensorSpec

PICTURES = TensorSpec((3, 65, 40))
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}  # torchvision's, with a last layer of 1000 classes


def torchvision_names(network: ResNet) -> dict[str, Any]:
    """The network's state as torchvision would save it."""
    state = {name.removeprefix("stages.").removeprefix("stem."): value for name, value in network.state_dict().items()}
    return {**state, "fc.weight": torch.zeros(1000, network.out_features[0]), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(("depth", "width"), [(18, 512), (34, 512), (50, 2048)])
def test_it_has_the_parameters_of_the_published_network(depth: Any, width: int) -> None:
    encoder = ResNet(PICTURES, depth=depth)
    assert encoder.out_features == (width,)
    assert sum(p.numel() for p in encoder.parameters()) == PARAMETERS[depth] - (width + 1) * 1000
    names = torchvision_names(encoder)
    known = [
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.1.bias",
        "layer4.1.bn2.weight",
    ]
    assert {*known} <= {*names}
    assert ("layer1.0.conv3.weight" in names) is (depth == 50)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(("dilated", "strides"), [(False, (4, 4, 8, 16, 32)), (True, (4, 4, 8, 8, 8))])
def test_stages_have_the_published_strides(depth: Any, dilated: bool, strides: tuple[int, ...]) -> None:
    encoder = ResNet(PICTURES, depth=depth, dilated=dilated, pool=False).eval()
    maps, sides = torch.randn(1, 3, 65, 40), []
    for stage in encoder.stages:
        maps = stage(maps)
        sides.append(tuple(maps.shape[2:]))
    assert sides == [(-(-65 // stride), -(-40 // stride)) for stride in strides]
    assert encoder.out_features == tuple(maps.shape[1:])


def test_dilated_convolutions_are_those_of_the_literature() -> None:
    def dilations(depth: Any) -> list[list[int]]:
        encoder = ResNet(PICTURES, depth=depth, dilated=True)
        layers = [encoder.stages.get_submodule(f"layer{number}") for number in (2, 3, 4)]
        return [
            [m.dilation[0] for m in layer.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
            for layer in layers
        ]

    assert dilations(50) == [[1] * 4, [1] + [2] * 5, [2] + [4] * 2]
    assert dilations(18) == [[1] * 4, [1, 2, 2, 2], [2, 4, 4, 4]]


@pytest.mark.parametrize("depth", [18, 50])
def test_the_dilated_network_sees_what_the_other_one_sees_at_more_places(depth: Any) -> None:
    plain, dilated = (ResNet(TensorSpec((1, 64, 64)), depth=depth, dilated=d, pool=False).eval() for d in (False, True))
    dilated.load_state_dict(plain.state_dict())
    pictures = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(dilated(pictures)[:, :, ::4, ::4], plain(pictures), rtol=1e-3, atol=1e-3)


def test_pooling_is_the_mean_over_space() -> None:
    pooled, maps = (ResNet(PICTURES, pool=pool).eval() for pool in (True, False))
    maps.load_state_dict(pooled.state_dict())
    pictures = torch.randn(2, 3, 65, 40)
    torch.testing.assert_close(pooled(pictures), maps(pictures).mean((2, 3)))


def test_a_block_adds_its_input_to_what_it_computes() -> None:
    encoder = ResNet(PICTURES).eval()
    block = encoder.stages.get_submodule("layer1.0")
    for module in block.modules():
        if isinstance(module, BatchNorm):
            module.weight.data.zero_()
    maps = torch.randn(2, 64, 5, 7)
    assert torch.equal(block(maps), maps.relu())


# -------------------------------------------------------------------------------------------------------------- weights
def test_weights_of_torchvisions_format_load_from_a_file() -> None:
    saved = ResNet(PICTURES)
    saved(torch.randn(4, 3, 65, 40))  # the statistics are part of it
    torch.save(torchvision_names(saved), "resnet18.pth")
    loaded = ResNet(PICTURES, weights=Path("resnet18.pth"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in saved.state_dict().items())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "expected a file of weights, found none at 'there.pth'"),
        ([1, 2], {}, r"expected a `state_dict\(\)` in 'there.pth', found list"),
        ("resnet", {"depth": 34}, "expected weights of a ResNet of this depth and number of channels"),
        (
            "resnet",
            {"spec": TensorSpec((1, 65, 40))},
            "expected weights of a ResNet of this depth and number of channel",
        ),
    ],
)
def test_says_what_is_wrong_with_a_file(content: Any, options: dict[str, Any], message: str) -> None:
    if content is not None:
        torch.save(torchvision_names(ResNet(PICTURES)) if content == "resnet" else content, "there.pth")
    with pytest.raises(ConfigurationError, match=f"ResNet: {message}"):
        ResNet(**{"spec": PICTURES, "weights": "there.pth", **options})


# --------------------------------------------------------------------------------------------------------------- errors
def test_pictures_may_vary_in_size_if_pooled() -> None:
    varying = TensorSpec((3, None, None))
    encoder = ResNet(varying).eval()
    assert [tuple(encoder(torch.randn(1, 3, *sides)).shape) for sides in ((33, 40), (64, 20))] == [(1, 512)] * 2
    with pytest.raises(ConfigurationError, match="ResNet: expected pictures of a fixed height and width, since `pool`"):
        ResNet(varying, pool=False)


@pytest.mark.parametrize(
    "spec", [TensorSpec((8,)), TensorSpec((3, 8, 8), "uint8"), TensorSpec((None, 8, 8)), TableSpec((), {})]
)
def test_it_takes_pictures(spec: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"ResNet takes floating-point pictures \(C, H, W\) with known C, found"
    ):
        ResNet(spec)


def test_it_has_three_depths() -> None:
    build: Any = partial(ResNet, PICTURES)
    with pytest.raises(ConfigurationError, match=r"ResNet: expected a depth of \[18, 34, 50\], found 101"):
        build(depth=101)
