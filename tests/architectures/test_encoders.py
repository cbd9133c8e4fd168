from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import MLP, LeNet
from mtl_lightning.types import ConfigurationError, InputSpec, TableSpec, TensorSpec

PICTURES = TensorSpec((1, 12, 12))


# ------------------------------------------------------------------------------------------------------------------ MLP
def test_mlp_is_linear_activation_linear_activation_on_the_flattened_input() -> None:
    encoder, inputs = MLP(TensorSpec((2, 3)), hidden=(5, 4), activation=nn.Tanh), torch.randn(7, 2, 3)
    (w1, b1), (w2, b2) = (
        (encoder.get_parameter(f"stages.{i}.{j}.weight"), encoder.get_parameter(f"stages.{i}.{j}.bias"))
        for i, j in [(0, 1), (1, 0)]
    )
    expected = torch.tanh(torch.tanh(inputs.reshape(7, 6) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(encoder(inputs), expected)
    assert encoder.out_features == (4,)
    assert len(encoder.stages) == 2


@pytest.mark.parametrize("shape", [(), (1,), (6,), (3, 5, 7)])
def test_mlp_flattens_any_shape(shape: tuple[int, ...]) -> None:
    assert MLP(TensorSpec(shape), hidden=[3])(torch.randn(2, *shape)).shape == (2, 3)


def test_mlp_without_hidden_layers_is_the_flattened_input() -> None:
    encoder, inputs = MLP(TensorSpec((2, 3)), hidden=()), torch.randn(4, 2, 3)
    assert torch.equal(encoder(inputs), inputs.flatten(1))
    assert encoder.out_features == (6,)


def test_mlp_drops_units_in_training_only() -> None:
    encoder, inputs = MLP(TensorSpec((6,)), hidden=(50,), activation=nn.Sigmoid, dropout=0.5), torch.randn(4, 6)
    assert 0.3 < (encoder(inputs) == 0).float().mean() < 0.7
    assert not (encoder.eval()(inputs) == 0).any()
    assert not any(isinstance(module, nn.Dropout) for module in MLP(TensorSpec((6,))).modules())


def test_each_layer_has_an_activation_of_its_own() -> None:
    encoder = MLP(TensorSpec((6,)), hidden=(5, 4), activation=partial(nn.PReLU, num_parameters=1))
    assert len([module for module in encoder.modules() if isinstance(module, nn.PReLU)]) == 2


# ---------------------------------------------------------------------------------------------------------------- LeNet
def test_lenet_pads_its_kernels_so_that_pictures_shrink_by_pooling_alone() -> None:
    encoder, inputs = LeNet(PICTURES, channels=(4, 6), width=10), torch.randn(2, 1, 12, 12)
    shapes = []
    for stage in encoder.stages:
        inputs = stage(inputs)
        shapes.append(tuple(inputs.shape[1:]))
    assert shapes == [(4, 6, 6), (6, 3, 3), (10,)]
    assert encoder.out_features == (10,)
    kernels = [tuple(module.kernel_size) for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == [(5, 5), (5, 5)]


@pytest.mark.parametrize("sides", [(12, 12), (13, 15), (12, 64), (28, 28), (63, 17), (64, 64)])
def test_lenet_takes_sides_from_12_to_64_odd_ones_too(sides: tuple[int, int]) -> None:
    encoder = LeNet(TensorSpec((3, *sides)), channels=(2, 2), width=5)
    assert encoder(torch.randn(1, 3, *sides)).shape == (1, 5)


def test_every_pixel_of_an_odd_picture_is_seen() -> None:
    encoder = LeNet(TensorSpec((1, 13, 15)), channels=(8, 8), width=32).double()
    inputs = torch.rand(64, 1, 13, 15, dtype=torch.float64, requires_grad=True)
    encoder(inputs).sum().backward()
    assert inputs.grad is not None
    assert (inputs.grad != 0).any(0).all()


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("sides", [(11, 12), (12, 11), (65, 20), (8, 8)])
def test_lenet_refuses_other_sides(sides: tuple[int, int]) -> None:
    message = rf"LeNet takes pictures with sides from 12 to 64 pixels, found {sides[0]}x{sides[1]}; resize them"
    with pytest.raises(ConfigurationError, match=message):
        LeNet(TensorSpec((1, *sides)))


@pytest.mark.parametrize("shape", [(8,), (12, 12), (1, 1, 12, 12)])
def test_lenet_refuses_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"LeNet takes pictures \(C, H, W\), found inputs of shape \(.* MLP"):
        LeNet(TensorSpec(shape))


@pytest.mark.parametrize("encoder", [MLP, LeNet])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TableSpec(("age",), {"work": 9}), r"takes inputs that are one tensor \(a TensorSpec\), found TableSpec\("),
        ({"x": PICTURES}, r"takes inputs that are one tensor \(a TensorSpec\), found \{'x': TensorSpec\("),
        (None, r"takes inputs that are one tensor \(a TensorSpec\), found None"),
        (TensorSpec((1, None, 12)), r"takes inputs of a fixed shape, found \(1, None, 12\), where None varies; resize"),
        (TensorSpec((1, 12, 12), "uint8"), "takes floating-point inputs, found uint8; convert them"),
    ],
)
def test_an_encoder_says_which_inputs_it_takes(encoder: Any, spec: InputSpec | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{encoder.__name__} {message}"):
        encoder(spec)


@pytest.mark.parametrize("widths", [(2.5,), "64", 64])
def test_mlp_refuses_widths_that_are_none(widths: Any) -> None:
    with pytest.raises(ConfigurationError, match="Expected as `hidden` whole numbers of at least 1, found"):
        MLP(PICTURES, hidden=widths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": (32,)}, r"Expected `channels` of two convolutions, found \(32,\)"),
    ],
)
def test_lenet_refuses_widths_that_are_none(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LeNet(PICTURES, **arguments)
