from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import MLP, Architecture, Encoder, LeNet, SharedBottom
from mtl_lightning.architectures.base import PlainNetwork, build_architecture, build_encoder
from mtl_lightning.types import ConfigurationError, Features, InputSpec, TensorSpec

VECTORS, TASKS = TensorSpec((6,)), ["left", "right"]


class Own(nn.Module):
    """A user's network: features."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.map = nn.Linear(6, width)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.map(inputs)
        return output


class Needy(Own):
    """A user's network that cannot be made without arguments."""

    def __init__(self, width: int) -> None:
        super().__init__(width)


class Outputs(nn.Module):
    """A user's network: a final output per task."""

    def __init__(self, *tasks: str) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({task: nn.Linear(6, 2) for task in tasks or TASKS})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {task: module(inputs) for task, module in self.maps.items()}


class OutputsWithRoles(Outputs):
    """The same, with roles."""

    def task_parameters(self) -> dict[str, Any]:
        return {task: module.parameters() for task, module in self.maps.items()}


class Forgetful(Architecture):
    """A user's architecture that has features of one task only, or declares none."""

    def __init__(self, spec: InputSpec | None, tasks: Sequence[str], declares: bool = True) -> None:
        super().__init__()
        if declares:
            self.feature_sizes = {tasks[0]: (6,)}

    def forward(self, inputs: Any, tasks: Sequence[str]) -> Features:
        return Features({})


# ------------------------------------------------------------------------------------------------------- plain networks
def test_a_tensor_is_the_features_of_every_task() -> None:
    network, inputs = Own(), torch.randn(3, 6)
    architecture = build_architecture(network, VECTORS, TASKS)
    assert isinstance(architecture, PlainNetwork)
    assert not architecture.final
    assert architecture.feature_sizes == {"left": (4,), "right": (4,)}
    features = architecture(inputs, TASKS)
    assert features.per_task["left"] is features.per_task["right"]
    assert torch.equal(features.per_task["left"], network(inputs))
    assert architecture.task_parameters() == {}


def test_a_dict_is_the_final_outputs() -> None:
    network, inputs = Outputs("left", "right", "unused"), torch.randn(3, 6)
    architecture = build_architecture(network, VECTORS, TASKS)
    assert architecture.final
    assert architecture.feature_sizes == {}
    assert architecture.task_parameters() == {}
    outputs = architecture(inputs, ["right"]).per_task
    assert {*outputs} == {"right"}
    assert torch.equal(outputs["right"], network(inputs)["right"])


def test_a_network_may_declare_its_roles() -> None:
    network = OutputsWithRoles()
    declared = build_architecture(network, VECTORS, TASKS).task_parameters()
    assert {*declared} == {*TASKS}
    assert all(
        found is expected
        for task in TASKS
        for found, expected in zip(declared[task], network.maps[task].parameters(), strict=True)
    )


def test_a_dict_without_a_task_is_refused() -> None:
    message = r"Outputs returns a dict of final outputs: expected one per task, found \['left'\], none for \['right'\]"
    with pytest.raises(ConfigurationError, match=message):
        build_architecture(Outputs("left"), VECTORS, TASKS)


def test_a_network_that_declares_features_must_return_them() -> None:
    network = Outputs()
    network.out_features = 4  # type: ignore[assignment]  # a module's attributes are typed as tensors and modules
    architecture = build_architecture(network, None, TASKS)
    with pytest.raises(ConfigurationError, match=r"Outputs: expected a tensor of features, .* found dict\. What"):
        architecture(torch.randn(3, 6), TASKS)


def test_a_network_must_not_return_something_else_in_training() -> None:
    class Moody(Outputs):
        def forward(self, inputs: Tensor) -> Any:
            return inputs if self.training else super().forward(inputs)

    architecture = build_architecture(Moody(), VECTORS, TASKS)
    with pytest.raises(ConfigurationError, match=r"Moody: expected a dict of the tasks' outputs, .* found Tensor\."):
        architecture(torch.randn(3, 6), TASKS)


# ------------------------------------------------------------------------------------------------- making architectures
@pytest.mark.parametrize(
    ("argument", "size"),
    [
        (SharedBottom, (64,)),
        (partial(SharedBottom, encoder=partial(MLP, hidden=[5])), (5,)),
        (lambda spec, tasks: SharedBottom(spec, tasks, encoder=Own(7)), (7,)),
        (lambda _, tasks: Own(len(tasks)), (2,)),
        (Own, (4,)),
        (partial(Own, width=3), (3,)),
        (Own(5), (5,)),
        (MLP(VECTORS), (64,)),
        (nn.Flatten, (6,)),
    ],
)
def test_makes_an_architecture_of(argument: Any, size: tuple[int, ...]) -> None:
    architecture = build_architecture(argument, VECTORS, tuple(TASKS))
    assert architecture.feature_sizes == {"left": size, "right": size}
    assert architecture(torch.randn(3, 6), TASKS).per_task["right"].shape == (3, *size)


def test_an_architecture_is_taken_as_it_is() -> None:
    architecture = SharedBottom(VECTORS, TASKS)
    assert build_architecture(architecture, None, ["right"]) is architecture


def test_an_architecture_knows_the_spec_may_be_unknown() -> None:
    made = build_architecture(partial(SharedBottom, encoder=nn.Linear(6, 3)), None, TASKS)
    assert made.feature_sizes == {"left": (3,), "right": (3,)}


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        (SharedBottom(VECTORS, ["left"]), r"SharedBottom: .* found those of \['left'\], none for \['right'\]"),
        (Forgetful, r"Forgetful: .* found those of \['left'\], none for \['right'\]"),
        (partial(Forgetful, declares=False), r"Forgetful: .* found those of \[\], none for \['left', 'right'\]"),
    ],
)
def test_an_architecture_must_have_features_of_every_task(argument: Any, found: str) -> None:
    with pytest.raises(ConfigurationError, match=found):
        build_architecture(argument, VECTORS, TASKS)


@pytest.mark.parametrize("argument", [LeNet, partial(LeNet, width=3)])
def test_an_encoder_class_is_no_architecture(argument: Any) -> None:
    message = r"LeNet is an encoder: expected an architecture, .* `partial\(SharedBottom, encoder=LeNet\)`"
    with pytest.raises(ConfigurationError, match=message):
        build_architecture(argument, VECTORS, TASKS)


# ------------------------------------------------------------------------------------------------------ making encoders
def test_only_encoder_classes_are_given_the_spec() -> None:
    class Sized(Encoder):
        def __init__(self, spec: InputSpec, width: int = 2) -> None:
            super().__init__()
            self.spec, self.width = spec, width

    class Unsized(nn.Module):
        def __init__(self, first: Any = None, width: int = 2) -> None:
            super().__init__()
            self.first, self.width = first, width

    made = build_encoder(partial(Sized, width=3), VECTORS)
    assert isinstance(made, Sized)
    assert (made.spec, made.width) == (VECTORS, 3)
    factories: list[tuple[Any, int]] = [(Unsized, 2), (partial(Unsized, width=3), 3)]
    for argument, width in factories:
        plain = build_encoder(argument, VECTORS)
        assert isinstance(plain, Unsized)
        assert (plain.first, plain.width) == (None, width)


def test_an_instance_is_taken_as_it_is() -> None:
    network = Own()
    assert build_encoder(network, VECTORS) is network


@pytest.mark.parametrize("encoder", [MLP, partial(MLP, hidden=[3])])
def test_an_encoder_class_needs_the_spec(encoder: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="MLP takes its sizes from the data: expected an `input_spec`, found n"
    ):
        build_encoder(encoder, None)


@pytest.mark.parametrize("build", [build_encoder, partial(build_architecture, tasks=TASKS)])
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (Needy, "Needy takes no sizes from the data, so it is made without arguments: .*'width'.*Pass an instance"),
        (partial(Needy, **{"depth": 2}), "Needy: expected arguments among .*'width'.*, found 'depth'"),
        (dict, "Expected dict to make a network .* found dict"),
        (lambda *_: "network", "Expected <lambda> to make a network .* found str"),
        ("SharedBottom", "Expected a network, or a class or function that makes one, found 'SharedBottom'"),
    ],
)
def test_says_what_cannot_be_made_into_a_network(build: Any, argument: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(argument, spec=VECTORS)
