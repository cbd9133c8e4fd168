from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import MLP, BatchNorm, ResNet, TabularEncoder, TaskConditionedNorm
from mtl_lightning.types import ConfigurationError, TableSpec, TensorSpec
from tests.architectures.scalars import NUMBER, put

VECTORS, TASKS = TensorSpec((4,)), ["a", "b"]


def test_each_task_normalises_by_its_own_statistics_scale_and_shift() -> None:
    encoder = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=1e-12, momentum=1.0))
    network = TaskConditionedNorm(NUMBER, TASKS, encoder=encoder)
    put(network.get_parameter("encoders.a.0.weight"), [[2.0]])  # one weight for both
    put(network.get_parameter("encoders.b.1.weight"), [10.0])
    put(network.get_parameter("encoders.b.1.bias"), [1.0])
    inputs = torch.tensor([[1.0], [2.0], [3.0], [6.0]])  # times 2: mean 6, variance 14 (of a sample 56 / 3)
    standard = (2 * inputs - 6) / 14**0.5
    torch.testing.assert_close(network(inputs, ["a"]).per_task["a"], standard)
    torch.testing.assert_close(network(inputs + 5, ["b"]).per_task["b"], 10 * standard + 1)
    assert network.get_buffer("encoders.a.1.running_mean").item() == pytest.approx(6)
    assert network.get_buffer("encoders.b.1.running_mean").item() == pytest.approx(16)
    expected = (2 * inputs - 16) / (56 / 3) ** 0.5 * 10 + 1
    torch.testing.assert_close(network.eval()(inputs, ["b"]).per_task["b"], expected)


def test_everything_else_is_one_parameter_and_stays_one() -> None:
    network = TaskConditionedNorm(VECTORS, TASKS, encoder=partial(MLP, hidden=(5, 3), norm=nn.LayerNorm))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network.double()
    network.load_state_dict({name: value + 0.5 for name, value in network.state_dict().items()})
    for task in TASKS:
        optimizer.zero_grad()
        torch.autograd.backward([network(torch.randn(6, 4, dtype=torch.float64), [task]).per_task[task].square().sum()])
        optimizer.step()
    first, second = (dict(network.encoders[task].named_parameters()) for task in TASKS)
    apart = {name for name in first if first[name] is not second[name]}
    assert apart == {"stages.0.2.weight", "stages.0.2.bias", "stages.1.1.weight", "stages.1.1.bias"}
    assert len(list(network.parameters())) == 4 + 2 * 4


def test_a_tasks_batches_leave_the_other_tasks_statistics_alone() -> None:
    network = TaskConditionedNorm(VECTORS, TASKS)
    before = {name: value.clone() for name, value in network.encoders["b"].state_dict().items()}
    network(torch.randn(6, 4) + 3, ["a"])
    assert all(torch.equal(value, before[name]) for name, value in network.encoders["b"].state_dict().items())
    mean = network.get_buffer("encoders.a.stages.0.2.running_mean")
    assert mean.count_nonzero() == len(mean)


def test_a_residual_network_has_its_normalisations_per_task() -> None:
    network = TaskConditionedNorm(TensorSpec((3, 40, 40)), TASKS, encoder=ResNet)
    own = network.task_parameters()
    assert [len(own[task]) for task in TASKS] == [2 * 20, 2 * 20]  # scale and shift of 20 normalisations
    assert not {id(p) for p in own["a"]} & {id(p) for p in own["b"]}


def test_tables_are_normalised_per_task_too() -> None:
    spec = TableSpec(("age",), {"work": 4})
    network = TaskConditionedNorm(spec, TASKS, encoder=partial(TabularEncoder, hidden=(5, 3), norm=BatchNorm))
    assert [len(own) for own in network.task_parameters().values()] == [4, 4]
    assert len([name for name, _ in network.named_parameters() if "embedding" in name]) == 1


def test_which_layers_are_the_tasks_own_is_a_choice() -> None:
    def is_last(layer: nn.Module) -> bool:
        return isinstance(layer, nn.Linear) and layer.out_features == 3

    network = TaskConditionedNorm(VECTORS, TASKS, encoder=partial(MLP, hidden=(5, 3)), own=is_last)
    assert [tuple(p.shape) for p in network.task_parameters()["b"]] == [(3, 5), (3,)]


def test_layers_inside_others_are_declared_once() -> None:
    def anything(layer: nn.Module) -> bool:
        return True

    network = TaskConditionedNorm(VECTORS, TASKS, encoder=partial(MLP, hidden=(5, 3)), own=anything)
    assert [len(own) for own in network.task_parameters().values()] == [4, 4]
    assert len(list(network.parameters())) == 8


@pytest.mark.parametrize("encoder", [MLP, nn.Linear(4, 2)])
def test_an_encoder_without_normalisation_is_refused(encoder: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected an encoder with normalisation layers, found none in"):
        TaskConditionedNorm(VECTORS, TASKS, encoder=encoder)
