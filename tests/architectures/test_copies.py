from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import MLP
from mtl_lightning.architectures.copies import build_trunk, copies, draw_anew, parameters_of
from mtl_lightning.types import ConfigurationError, TensorSpec

VECTORS = TensorSpec((4,))


def test_a_class_is_made_once_per_copy_with_weights_of_its_own() -> None:
    made, size = copies(partial(MLP, hidden=[3]), VECTORS, 3)
    assert size == (3,)
    weights = [parameters_of(network)[0] for network in made]
    assert len({id(w) for w in weights}) == 3
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


def test_an_instance_is_the_first_copy_and_the_others_draw_anew() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = parameters_of(network)[0].detach().clone()
    made, _ = copies(network, VECTORS, 3)
    assert made[0] is network
    assert torch.equal(parameters_of(network)[0], before)
    others = [parameters_of(other)[0] for other in made[1:]]
    assert not any(torch.equal(before, other) for other in others)
    assert not torch.equal(others[0], others[1])
    assert len({id(p) for other in made for p in other.parameters()}) == 3 * 4


def test_a_function_that_always_gives_the_same_network_is_seen_through() -> None:
    network = nn.Linear(4, 3)
    made, _ = copies(lambda _: network, VECTORS, 2)
    assert made[0] is network
    assert made[1] is not network
    assert not torch.equal(parameters_of(made[1])[0], network.weight)


def test_a_function_that_loads_weights_gives_them_to_every_copy() -> None:
    saved = nn.Linear(4, 3).state_dict()

    def loaded(_: object) -> nn.Module:
        network = nn.Linear(4, 3)
        network.load_state_dict(saved)
        return network

    made, _ = copies(loaded, VECTORS, 2)
    assert torch.equal(*(parameters_of(network)[0] for network in made))
    assert parameters_of(made[0])[0] is not parameters_of(made[1])[0]


def test_frozen_layers_and_bare_parameters_keep_their_values() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.trained = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.randn(4))

    network = Scaled()
    kept = (network.frozen.weight, network.trained.weight, network.scale)
    frozen, trained, scale = (parameter.detach().clone() for parameter in kept)
    draw_anew(network)
    assert torch.equal(network.frozen.weight, frozen)
    assert torch.equal(network.scale, scale)
    assert not torch.equal(network.trained.weight, trained)


def test_lazy_layers_of_every_copy_get_their_parameters() -> None:
    made, size = copies(lambda _: nn.LazyLinear(5), VECTORS, 3)
    assert size == (5,)
    assert [tuple(p.shape) for p in parameters_of(*made)] == [(5, 4), (5,)] * 3


def test_no_copy_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="as the number of experts whole numbers of at least 1, found"):
        copies(MLP, VECTORS, 0, "experts")


def test_a_trunk_says_what_comes_out_of_it() -> None:
    trunk, spec = build_trunk(partial(MLP, hidden=[3]), VECTORS)
    assert isinstance(trunk, MLP)
    assert spec == TensorSpec((3,))
    passing, same = build_trunk(None, VECTORS)
    inputs = object()
    assert passing(inputs) is inputs
    assert same is VECTORS
