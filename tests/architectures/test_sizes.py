from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from mtl_lightning.architectures.sizes import as_size, feature_size, probe
from mtl_lightning.types import ConfigurationError, InputSpec, TableSpec, TensorSpec

VECTORS = TensorSpec((6,))


class Declared(nn.Module):
    """Declares its features, and fails when it is run."""

    def __init__(self, out_features: Any) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, inputs: Tensor) -> Tensor:
        raise AssertionError("was run")


class Returns(nn.Module):
    """Returns whatever it was given, called with the inputs."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, inputs: Any) -> Any:
        return self.output(inputs)


class Counter(nn.Module):
    """Changes its buffers in every mode: one in place, one by putting a new tensor in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: Tensor
        self.seen: Tensor
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.steps += 1
        self.seen = self.seen + len(inputs)
        return inputs


# ----------------------------------------------------------------------------------------------------------------- size
@pytest.mark.parametrize(
    ("declared", "size"),
    [(5, (5,)), ((5,), (5,)), ([5, 2, 3], (5, 2, 3)), (torch.Size([5, 2]), (5, 2)), (np.prod([5, 2]), (10,))],
)
def test_a_network_that_declares_its_features_is_never_run(declared: Any, size: tuple[int, ...]) -> None:
    assert feature_size(Declared(declared), VECTORS) == size
    assert feature_size(Declared(declared), None) == size
    assert {type(n) for n in as_size(declared)} == {int}


@pytest.mark.parametrize("declared", [0, (5, -1), "64", 2.5, {"left": 5}])
def test_a_declaration_that_is_no_shape_is_refused(declared: Any) -> None:
    with pytest.raises(ConfigurationError, match="Expected as `out_features` whole numbers of at least 1, found"):
        feature_size(Declared(declared), VECTORS)


@pytest.mark.parametrize(
    ("network", "spec", "size"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU()), VECTORS, (4,)),
        (nn.Conv2d(3, 4, 3), TensorSpec((3, 8, 9)), (4, 6, 7)),
        (nn.AdaptiveAvgPool2d(1), TensorSpec((3, None, None)), (3, 1, 1)),
        (nn.Sequential(nn.Embedding(1, 4), nn.Flatten()), TensorSpec((5,), "int64"), (20,)),
        (Returns(lambda x: x["a"]), {"a": VECTORS, "b": TensorSpec((2,), "int64")}, (6,)),
        (Returns(lambda x: x["numeric"]), TableSpec(("age", "income"), {"work": 9}), (2,)),
        (nn.Sequential(nn.Linear(6, 4)).double(), VECTORS, (4,)),
        (nn.Sequential(nn.Linear(6, 4)).bfloat16(), VECTORS, (4,)),
    ],
)
def test_other_networks_are_run_once(network: nn.Module, spec: InputSpec, size: tuple[int, ...]) -> None:
    runs: list[Any] = []
    network.register_forward_hook(lambda *_: runs.append(1))
    assert feature_size(network, spec) == size
    assert len(runs) == 1


def test_without_a_spec_or_a_declaration_the_size_cannot_be_told() -> None:
    with pytest.raises(ConfigurationError, match="output size of Flatten: expected an `input_spec` or an `out_feat"):
        feature_size(nn.Flatten(), None)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda x: x.sum(), r"found shape \(\) on 2 rows"),
        (lambda x: x.sum(1), r"found shape \(2,\) on 2 rows"),
        (lambda x: x[:1], r"found shape \(1, 6\) on 2 rows"),
        (lambda x: (x, x), "found tuple on 2 rows"),
    ],
)
def test_what_is_no_features_is_refused(output: Any, found: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Returns: expected a tensor of features \(B, D, \*\) or .* {found}"):
        feature_size(Returns(output), VECTORS)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Linear(7, 4)), "mat1 and mat2"),
        (Returns(lambda x: x.no_such_thing), "no_such_thing"),
        (nn.Module(), 'required "forward" function'),
    ],
)
def test_a_network_that_fails_on_made_rows_says_what_to_do(network: nn.Module, said: str) -> None:
    message = rf"{type(network).__name__} does not run on 2 rows of TensorSpec\(.*{said}.*set `out_features` on it"
    with pytest.raises(ConfigurationError, match=message) as error:
        feature_size(network.train(), VECTORS)
    assert error.value.__cause__ is not None
    assert network.training


# -------------------------------------------------------------------------------------------------- what a run restores
def test_a_run_leaves_every_mode_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(4)))
    network[1].eval()
    during: list[bool] = []
    network[2].register_forward_hook(lambda module, *_: during.append(module.training))
    probe(network, VECTORS)
    assert during == [False]
    assert [module.training for module in network.modules()] == [True, True, False, True, True]


def test_a_run_leaves_batch_norm_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe(network, VECTORS)
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_restores_buffers_that_change_in_every_mode(fails: bool) -> None:
    network = nn.Sequential(Counter(), nn.Linear(7 if fails else 6, 4))
    before = dict(network.named_buffers())
    if fails:
        with pytest.raises(ConfigurationError):
            probe(network, VECTORS)
    else:
        probe(network, VECTORS)
    assert {name: value.item() for name, value in network.named_buffers()} == {"0.steps": 0.0, "0.seen": 0.0}
    assert all(value is before[name] for name, value in network.named_buffers())


def test_a_run_leaves_the_random_state_as_it_was() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    probe(Returns(lambda x: x + torch.rand(x.shape)), VECTORS)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_keeps_no_graph() -> None:
    assert not probe(nn.Linear(6, 4), VECTORS).requires_grad


# ---------------------------------------------------------------------------------------------------------- lazy layers
def test_lazy_layers_get_their_parameters() -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU())
    assert feature_size(network, TensorSpec((2, 3))) == (4,)
    assert not any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters())
    assert {name: tuple(value.shape) for name, value in network.named_parameters()} == {
        "1.weight": (4, 6), "1.bias": (4,), "2.weight": (4,), "2.bias": (4,),
    }  # fmt: skip
    assert all(parameter.requires_grad for parameter in network.parameters())
    running = dict(network.named_buffers())
    assert torch.equal(running["2.running_mean"], torch.zeros(4))
    assert torch.equal(running["2.running_var"], torch.ones(4))
    assert network.training
    assert network[2].training


def test_a_lazy_network_is_run_even_if_it_declares_its_features() -> None:
    network = nn.LazyLinear(4)
    with pytest.raises(ConfigurationError, match="`out_features` attribute on a network without lazy layers"):
        feature_size(network, None)
    assert feature_size(network, VECTORS) == (4,)
    assert network.weight.shape == (4, 6)


def test_the_next_layer_does_not_repeat_the_draws_of_a_lazy_one() -> None:
    torch.manual_seed(0)
    lazy = nn.LazyLinear(4)
    probe(lazy, VECTORS)
    following = nn.Linear(6, 4)
    torch.manual_seed(0)
    first, second = nn.Linear(6, 4), nn.Linear(6, 4)
    assert torch.equal(lazy.weight, first.weight)
    assert torch.equal(following.weight, second.weight)
