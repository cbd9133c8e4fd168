"""What YAML may say for an architecture and its heads, read by the parser of the command line."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor, nn

from mtl_lightning.architectures import (
    MLP,
    Architecture,
    ArchitectureArgument,
    Encoder,
    HeadFactory,
    LeNet,
    Linear,
    MLPHead,
    SharedBottom,
)
from mtl_lightning.architectures.base import PlainNetwork, build_architecture
from mtl_lightning.describe import describe
from mtl_lightning.types import ConfigurationError, InputSpec, NotDescribableError, TensorSpec

PICTURES, TASKS = TensorSpec((1, 12, 12)), ["left", "right"]
HERE = __name__


class Holder:
    """Has the parameters that the module has."""

    def __init__(self, architecture: ArchitectureArgument, heads: dict[str, HeadFactory] | None = None) -> None:
        self.architecture = architecture
        self.heads = heads or {}


class OwnEncoder(Encoder):
    """A user's encoder, which takes its sizes from the data."""

    def __init__(self, spec: InputSpec, *, scale: float = 1.0) -> None:
        super().__init__()
        assert spec == PICTURES
        self.scale, self.out_features = scale, (144,)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs.flatten(1)


class OwnNetwork(nn.Module):
    """A user's network, which knows nothing of this library; its first parameter must not become the spec."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.map = nn.Linear(144, width)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.map(inputs.flatten(1))
        return output


class OwnHead(nn.Module):
    """A user's head, which is no subclass of ours."""

    def __init__(self, in_features: tuple[int, ...], out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.map = nn.Linear(in_features[0], out_features, bias)


def own_encoder(spec: InputSpec) -> OwnEncoder:
    return OwnEncoder(spec, scale=3.0)


def parser() -> Any:
    made = ArgumentParser(exit_on_error=False)
    made.add_class_arguments(Holder, "model")
    return made


def read(**config: Any) -> Holder:
    reader = parser()
    holder = reader.instantiate(reader.parse_object({"model": config})).model
    assert isinstance(holder, Holder)
    return holder


def build(architecture: Any) -> Architecture:
    return build_architecture(read(architecture=architecture).architecture, PICTURES, TASKS)


def shared_bottom(encoder: Any) -> dict[str, Any]:
    return {"class_path": "SharedBottom", "init_args": {"encoder": encoder}}


def encoder_of(architecture: Architecture) -> Any:
    assert isinstance(architecture, SharedBottom)
    return architecture.encoder


# ---------------------------------------------------------------------------------------------- architectures, encoders
@pytest.mark.parametrize(
    "yaml", ["SharedBottom", {"class_path": "SharedBottom"}, "mtl_lightning.architectures.SharedBottom"]
)
def test_the_default_encoder_is_the_perceptron(yaml: Any) -> None:
    assert type(encoder_of(build(yaml))) is MLP


@pytest.mark.parametrize("yaml", ["LeNet", {"class_path": "LeNet"}, "mtl_lightning.architectures.encoders.LeNet"])
def test_a_short_name_finds_an_encoder(yaml: Any) -> None:
    assert type(encoder_of(build(shared_bottom(yaml)))) is LeNet


def test_an_encoder_takes_init_args() -> None:
    yaml = {"class_path": "LeNet", "init_args": {"channels": [2, 3], "width": 7}}
    assert build(shared_bottom(yaml)).feature_sizes == {"left": (7,), "right": (7,)}


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("torch.nn.GELU", nn.GELU()),
        ("GELU", nn.GELU()),
        ({"class_path": "torch.nn.LeakyReLU", "init_args": {"negative_slope": 0.2}}, nn.LeakyReLU(0.2)),
    ],
)
def test_an_activation_is_chosen_by_class_path(activation: Any, expected: nn.Module) -> None:
    yaml = {"class_path": "MLP", "init_args": {"hidden": [9, 8], "activation": activation}}
    found = [m for m in encoder_of(build(shared_bottom(yaml))).modules() if type(m) is type(expected)]
    assert len(found) == 2
    assert [repr(module) for module in found] == [repr(expected)] * 2


@pytest.mark.parametrize(
    ("yaml", "scale"),
    [
        (f"{HERE}.OwnEncoder", 1.0),
        ({"class_path": f"{HERE}.OwnEncoder", "init_args": {"scale": 2.0}}, 2.0),
        (f"{HERE}.own_encoder", 3.0),
    ],
)
def test_a_users_encoder_is_given_the_spec(yaml: Any, scale: float) -> None:
    encoder = encoder_of(build(shared_bottom(yaml)))
    assert type(encoder) is OwnEncoder
    assert encoder.scale == scale


@pytest.mark.parametrize(
    ("yaml", "width"),
    [
        ({"class_path": f"{HERE}.OwnNetwork"}, 5),
        ({"class_path": f"{HERE}.OwnNetwork", "init_args": {"width": 6}}, 6),
        ({"class_path": "torch.nn.Flatten"}, 144),
    ],
)
def test_a_users_network_is_made_without_sizes(yaml: Any, width: int) -> None:
    as_encoder, as_architecture = build(shared_bottom(yaml)), build(yaml)
    assert as_encoder.feature_sizes == as_architecture.feature_sizes == {"left": (width,), "right": (width,)}
    assert isinstance(as_encoder, SharedBottom)
    assert isinstance(as_architecture, PlainNetwork)


def test_the_command_line_says_it_with_options() -> None:
    reader = parser()
    options = ["--model.architecture=SharedBottom", "--model.architecture.encoder=LeNet"]
    factory = reader.instantiate(
        reader.parse_args([*options, "--model.architecture.encoder.width=7"])
    ).model.architecture
    assert build_architecture(factory, PICTURES, TASKS).feature_sizes["left"] == (7,)


def test_the_printed_config_runs() -> None:
    reader = parser()
    config = {"architecture": shared_bottom("LeNet"), "heads": {"default": "Linear", "left": "MLPHead"}}
    printed = reader.dump(reader.parse_object({"model": config}))
    holder = reader.instantiate(reader.parse_string(printed)).model
    assert type(encoder_of(build_architecture(holder.architecture, PICTURES, TASKS))) is LeNet
    assert type(holder.heads["left"]((6,), 2)) is MLPHead


# ---------------------------------------------------------------------------------------------------------------- heads
def test_heads_are_factories_of_sizes_and_ours_come_first() -> None:
    heads = read(
        architecture="SharedBottom",
        heads={
            "default": "Linear",
            "left": {"class_path": "MLPHead", "init_args": {"hidden": [32], "activation": "torch.nn.GELU"}},
            "right": {"class_path": f"{HERE}.OwnHead", "init_args": {"bias": False}},
        },
    ).heads
    made = {name: make((6,), 2) for name, make in heads.items()}
    assert {name: type(head) for name, head in made.items()} == {"default": Linear, "left": MLPHead, "right": OwnHead}
    assert [type(layer) for layer in made["left"].get_submodule("layers").children()] == [Linear, nn.GELU, Linear]
    assert made["right"].get_submodule("map").bias is None


# ----------------------------------------------------------------------------------------------------------- plain data
def test_a_partial_is_described_as_yaml_would_say_it() -> None:
    assert describe(partial(SharedBottom, encoder=LeNet)) == {
        "class_path": "mtl_lightning.architectures.SharedBottom",
        "init_args": {"encoder": {"class_path": "mtl_lightning.architectures.LeNet"}},
    }


@pytest.mark.parametrize(
    "factory",
    [
        partial(SharedBottom, encoder=LeNet),
        partial(SharedBottom, encoder=partial(LeNet, channels=(2, 3), width=7)),
        partial(SharedBottom, encoder=partial(MLP, hidden=[9], activation=partial(nn.LeakyReLU, negative_slope=0.2))),
        partial(SharedBottom, encoder=own_encoder),
        SharedBottom,
    ],
)
def test_plain_data_rebuilds_the_same_architecture(factory: Any) -> None:
    parsed = read(architecture=describe(factory)).architecture
    again = read(architecture=describe(parsed)).architecture  # as a checkpoint of a run from YAML
    expected = build_architecture(factory, PICTURES, TASKS)
    for rebuilt in (build_architecture(parsed, PICTURES, TASKS), build_architecture(again, PICTURES, TASKS)):
        assert repr(rebuilt) == repr(expected)
        rebuilt.load_state_dict(expected.state_dict())
        inputs = torch.randn(2, 1, 12, 12)
        assert torch.equal(rebuilt(inputs, TASKS).per_task["left"], expected(inputs, TASKS).per_task["left"])


def test_plain_data_rebuilds_heads() -> None:
    heads: dict[str, HeadFactory] = {"default": Linear, "left": partial(MLPHead, hidden=(3,), activation=nn.GELU)}
    rebuilt = read(architecture="SharedBottom", heads=describe(heads)).heads
    assert {name: repr(make((6,), 2)) for name, make in rebuilt.items()} == {
        name: repr(make((6,), 2)) for name, make in heads.items()
    }


def test_an_instance_is_no_plain_data() -> None:
    with pytest.raises(NotDescribableError, match="found an instance: Flatten"):
        describe(read(architecture=shared_bottom({"class_path": "torch.nn.Flatten"})).architecture)


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ({"class_path": "SharedBotom"}, "SharedBotom"),
        ({"class_path": "SharedBottom", "init_args": {"encodr": "LeNet"}}, "'encodr' is not accepted"),
        (shared_bottom({"class_path": "LeNet", "init_args": {"widht": 3}}), "'widht' is not accepted"),
        (shared_bottom({"class_path": "LeNet", "init_args": {"channels": [3]}}), "tuple with 2 elements"),
        ("LeNet", "to be a subclass of <class 'Architecture'>"),
    ],
)
def test_the_parser_names_what_is_wrong(yaml: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        read(architecture=yaml)


def test_an_argument_that_our_linear_does_not_have_never_makes_torchs() -> None:
    with pytest.raises(ArgumentError, match=r"'bias' is not accepted(.|\n)*mtl_lightning\.architectures\.Linear"):
        read(architecture="SharedBottom", heads={"default": {"class_path": "Linear", "init_args": {"bias": False}}})


def test_sizes_that_are_missing_are_asked_for_by_the_parts_own_name() -> None:
    factory = read(architecture=shared_bottom("LeNet")).architecture
    with pytest.raises(ConfigurationError, match=r"^LeNet takes its sizes from the data"):
        build_architecture(factory, None, TASKS)
