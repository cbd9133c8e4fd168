"""What feeds an activation, which axis its units are on, and which have fired."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import LeNet, MLPHead, SharedBottom
from mtl_lightning.callbacks.activations import Layer, find_layers
from mtl_lightning.types import TensorSpec
from tests.helpers import make_module, make_tasks

RELU = (nn.ReLU, nn.ReLU6)


def found(module: Any, *activations: type[nn.Module]) -> list[tuple[str, str, str]]:
    """Names of the activations, of what feeds them, and of its group."""
    names = {id(part): name for name, part in module.named_modules()}
    return [(x.name, names[id(x.feeder)], x.group) for x in find_layers(module, activations or RELU)[0]]


def network(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), *layers)


def layer(feeder: nn.Module) -> Layer:
    return Layer("name", nn.ReLU(), feeder, "shared")


# -------------------------------------------------------------------------------------------------------- what feeds it
def test_each_activation_belongs_to_the_layer_before_it() -> None:
    module = make_module(tasks=make_tasks("number", "kind"), architecture=SharedBottom, heads={"number": MLPHead})
    encoder = "architecture.encoder.stages"
    assert found(module) == [
        (f"{encoder}.0.2", f"{encoder}.0.1", "shared"),
        (f"{encoder}.1.1", f"{encoder}.1.0", "shared"),
        ("heads.number.layers.1", "heads.number.layers.0.map", "number"),
    ]


def test_layers_without_parameters_are_passed_over() -> None:
    pictures = TensorSpec((1, 12, 12))
    module = make_module(architecture=SharedBottom(pictures, [*make_tasks()], encoder=LeNet), input_spec=pictures)
    assert [name for name, _, _ in found(module)] == [f"architecture.encoder.stages.{i}" for i in ("0.1", "1.1", "2.2")]
    module = make_module(architecture=network(nn.Dropout(0.1), nn.Sequential(nn.Identity(), nn.ReLU())))
    assert found(module) == [("architecture.network.2.1", "architecture.network.0", "shared")]


def test_a_normalisation_layer_feeds_what_follows_it() -> None:
    module = make_module(architecture=network(nn.LayerNorm(6), nn.ReLU()))
    assert found(module) == [("architecture.network.2", "architecture.network.1", "shared")]


def test_an_activation_at_the_start_of_a_head_belongs_to_the_head() -> None:
    heads = {"default": lambda size, outputs: nn.Sequential(nn.ReLU(), nn.Linear(size[0], outputs))}
    module = make_module(tasks=make_tasks("number", "kind"), architecture=network(), heads=heads)
    assert found(module) == [
        ("heads.number.0", "heads.number.1", "number"),
        ("heads.kind.0", "heads.kind.1", "kind"),
    ]


def test_an_activation_declared_first_belongs_to_the_first_layer_of_its_module() -> None:
    class Early(nn.Module):
        out_features = (6,)

        def __init__(self) -> None:
            super().__init__()
            self.activation = nn.ReLU()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            features: Tensor = self.second(self.activation(self.first(inputs)))
            return features

    assert found(make_module(architecture=Early())) == [
        ("architecture.network.activation", "architecture.network.first", "shared")
    ]


def test_groups_split_by_pattern_are_told_apart() -> None:
    deep = network(nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    module = make_module(architecture=deep, groups={"first": ["architecture.network.0.*"]})
    assert [group for _, _, group in found(module)] == ["first", "shared"]


def test_classes_to_watch_can_be_given_and_subclasses_count() -> None:
    class Ours(nn.ReLU):
        pass

    deep = network(Ours(), nn.Linear(6, 6), nn.LeakyReLU(), nn.Linear(6, 6), nn.ReLU6())
    module = make_module(architecture=deep)
    assert [name[-1] for name, _, _ in found(module)] == ["1", "5"]
    assert [name[-1] for name, _, _ in found(module, nn.LeakyReLU)] == ["3"]


def test_an_activation_that_has_parameters_does_not_feed_itself() -> None:
    module = make_module(architecture=network(nn.PReLU()))
    assert found(module, nn.PReLU) == [("architecture.network.1", "architecture.network.0", "shared")]


@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_compiled_is_left_out_and_told(in_place: bool) -> None:
    compiled, plain = network(nn.ReLU()), network(nn.ReLU())
    if in_place:
        compiled.compile(backend="eager")
    else:
        compiled = torch.compile(compiled, backend="eager")  # type: ignore[assignment]  # acts as what it wraps

    class Two(nn.Module):
        out_features = (6,)

        def __init__(self) -> None:
            super().__init__()
            self.compiled, self.plain = compiled, plain

    layers, left_out = find_layers(make_module(architecture=Two()), RELU)
    assert [x.name for x in layers] == ["architecture.network.plain.1"]
    assert [name.removesuffix("1").rstrip(".") for name in left_out] == [
        "architecture.network.compiled" + ("" if in_place else "._orig_mod")
    ]


def test_a_module_without_activations_has_no_layers() -> None:
    assert find_layers(make_module(), RELU) == ([], [])


# --------------------------------------------------------------------------------------------------------- what is seen
def test_the_largest_output_of_each_unit_is_kept() -> None:
    seen = layer(nn.Linear(2, 3))
    seen.see(seen.activation, (), torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0]]))
    seen.see(seen.activation, (), torch.tensor([[0.0, 1.5, 3.0]]))
    assert {units: peak.tolist() for units, peak in seen.peaks.items()} == {3: [0.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("feeder", "shape", "units"),
    [
        pytest.param(nn.Linear(2, 3), (4, 3), 3, id="rows"),
        pytest.param(nn.Linear(2, 3), (4, 5, 3), 3, id="tokens"),
        pytest.param(nn.LayerNorm(3), (4, 5, 6, 3), 3, id="channels-last"),
        pytest.param(nn.Conv1d(1, 3, 1), (4, 3, 7), 3, id="sequences"),
        pytest.param(nn.Conv2d(1, 3, 1), (4, 3, 5, 6), 3, id="pictures"),
        pytest.param(nn.BatchNorm2d(3), (4, 3, 5, 6), 3, id="normalised-pictures"),
    ],
)
def test_units_are_the_channels_of_the_feeder(feeder: nn.Module, shape: tuple[int, ...], units: int) -> None:
    """One entry of one unit fires, in the last row and the last place; no other unit does."""
    output = torch.zeros(shape)
    last_axis = isinstance(feeder, nn.Linear | nn.LayerNorm)
    where = [size - 1 for size in shape]
    where[-1 if last_axis else 1] = 1
    output[tuple(where)] = 2.0
    seen = layer(feeder)
    seen.see(seen.activation, (), output)
    assert {width: peak.tolist() for width, peak in seen.peaks.items()} == {units: [0.0, 2.0, 0.0]}


def test_places_of_different_widths_are_told_apart() -> None:
    seen = layer(nn.Linear(2, 3))
    seen.see(seen.activation, (), torch.ones(4, 3))
    seen.see(seen.activation, (), torch.zeros(4, 2))
    assert {units: peak.tolist() for units, peak in seen.peaks.items()} == {3: [1.0] * 3, 2: [0.0] * 2}


@pytest.mark.parametrize("output", [torch.zeros(0, 3), torch.zeros(4), (torch.zeros(4, 3),)])
def test_what_has_no_units_is_passed_over(output: Any) -> None:
    seen = layer(nn.Linear(2, 3))
    seen.see(seen.activation, (), output)
    assert not seen.peaks


def test_what_is_seen_holds_no_graph() -> None:
    seen = layer(nn.Linear(2, 3))
    seen.see(seen.activation, (), nn.Linear(2, 3)(torch.ones(4, 2)))
    assert not seen.peaks[3].requires_grad


def test_frozen_feeders_do_not_learn() -> None:
    assert layer(nn.Linear(2, 3)).learns
    assert not layer(nn.Linear(2, 3).requires_grad_(False)).learns
