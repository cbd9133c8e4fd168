"""PopArt: the papers' recursion, outputs kept through rescaling, missing labels, processes, and learning with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import Linear, MLPHead
from mtl_lightning.architectures.base import last_affine
from mtl_lightning.tasks import Regression
from mtl_lightning.tasks.popart import LARGEST, SMALLEST, Statistics, followed, preserve, sums_about
from mtl_lightning.types import ConfigurationError, TargetSpec

NAN = float("nan")
NUMBER, VECTOR = TargetSpec(units="mm"), TargetSpec(shape=(3,), units="mm")


def start(size: int = 3) -> Statistics:
    return Statistics(torch.zeros(size).double(), torch.ones(size).double())


def some_targets(seed: int, rows: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    target = values * torch.tensor([0.1, 5.0, 300.0]) + torch.tensor([0.0, 20.0, -1000.0])
    return target.masked_fill(torch.rand(rows, 3, generator=generator) < 0.2, NAN)


def sums_of(mean: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    return sums_about(mean, target, ~target.isnan(), weight)


# ----------------------------------------------------------------------------------------------------------- statistics
@pytest.mark.parametrize("rate", [3e-4, 0.1, 1.0])
def test_statistics_follow_the_papers_recursion(rate: float) -> None:
    found, mu, nu = start(), torch.zeros(3).double(), torch.ones(3).double()
    for step in range(30):
        target = some_targets(step)
        found = followed(found, sums_of(found.mean, target), rate)
        mu = (1 - rate) * mu + rate * target.nanmean(0)
        nu = (1 - rate) * nu + rate * target.square().nanmean(0)
        torch.testing.assert_close(found.mean, mu, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.std, (nu - mu.square()).sqrt(), rtol=1e-9, atol=1e-9)


def test_sums_of_parts_add_up() -> None:
    target, mean, weight = some_targets(0), torch.tensor([0.1, 10.0, -500.0]).double(), torch.rand(20).double()
    whole = sums_of(mean, target, weight)
    parts = sum(sums_of(mean, target[rows], weight[rows]) for rows in (slice(0, 7), slice(7, 20)))
    torch.testing.assert_close(parts, whole)


def test_a_weight_of_2_is_two_rows_and_of_0_is_none() -> None:
    target, mean = torch.tensor([[1.0], [5.0], [9.0]]).double(), torch.zeros(1).double()
    found = sums_of(mean, target, torch.tensor([1.0, 2.0, 0.0]))
    torch.testing.assert_close(found, sums_of(mean, torch.tensor([[1.0], [5.0], [5.0]]).double()))


def test_an_output_without_a_label_keeps_its_statistics() -> None:
    target = some_targets(0)
    target[:, 1] = NAN
    found = followed(start(), sums_of(start().mean, target), 0.5)
    assert found.mean[1] == 0
    assert found.variance[1] == 1
    assert found.mean[[0, 2]].ne(0).all()


def test_far_from_0_float32_is_exact_enough() -> None:
    statistics = Statistics(torch.zeros(1), torch.ones(1))
    target = 1e5 + torch.tensor([[-1.0], [1.0]])
    for _ in range(400):
        statistics = followed(statistics, sums_of(statistics.mean, target), 0.1)
    assert statistics.std.item() == pytest.approx(1.0, rel=0.02)


def test_deviations_are_bounded() -> None:
    statistics = Statistics(torch.zeros(2), torch.tensor([0.0, 1e20]))
    assert statistics.std.tolist() == pytest.approx([SMALLEST, LARGEST])


# ----------------------------------------------------------------------------------------------------- kept predictions
@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv2d(4, 3, 1)], ids=["linear", "convolution"])
def test_an_affine_map_means_the_same_with_other_statistics(layer: nn.Linear | nn.Conv2d) -> None:
    layer = copy.deepcopy(layer).double()
    features = torch.randn(5, 4, *((2, 2) if isinstance(layer, nn.Conv2d) else ())).double()
    shape = (1, 3, *(1,) * (features.dim() - 2))
    old = Statistics(torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([1.0, 0.01, 1e6]).double())
    new = Statistics(torch.tensor([-100.0, 2.5, 0.0]).double(), torch.tensor([9.0, 1e-12, 4.0]).double())
    expected = layer(features) * old.std.reshape(shape) + old.mean.reshape(shape)
    assert layer.bias is not None
    preserve(layer.weight, layer.bias, old, new)
    torch.testing.assert_close(layer(features) * new.std.reshape(shape) + new.mean.reshape(shape), expected)
    assert layer.weight.requires_grad
    assert layer.weight.grad_fn is None


@pytest.mark.parametrize("head", [Linear, MLPHead])
@pytest.mark.parametrize(("spec", "columns"), [(NUMBER, [2]), (VECTOR, [0, 1, 2])])
def test_predictions_stay_while_the_loss_is_rescaled(head: Any, spec: TargetSpec, columns: list[int]) -> None:
    task = Regression(spec, popart=0.1).double()
    network, features = head((4,), task.output_size).double(), torch.randn(20, 4).double()
    before = task.predict(network(features))
    for step in range(20):
        target = some_targets(step)[:, columns]
        task.rescale(task.target_sums(target), last_affine(network, "depth"))
        torch.testing.assert_close(task.predict(network(features)), before, rtol=1e-9, atol=1e-9)
    standardised = (target - task.target_mean) / task.target_std
    expected = (network(features) - standardised)[~target.isnan()].square().sum()
    torch.testing.assert_close(task.loss(network(features), target), expected)
    assert task.target_std.sub(1).abs().min() > 0.1
    scale = task.target_scale  # there is none of outputs that have scales of their own
    assert scale is None if len(columns) > 1 else scale == pytest.approx(task.target_std.item())


def test_learns_what_is_far_from_0() -> None:
    torch.manual_seed(0)
    task, network = Regression(NUMBER, loss="l1", popart=0.05), nn.Linear(2, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(1000):
        features = torch.randn(64, 2)
        target = 5000 + 300 * features[:, 0]
        task.rescale(task.target_sums(target), network)
        loss = task.loss(network(features), target) / task.count(target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    assert task.target_mean.item() == pytest.approx(5000, abs=50)
    assert task.target_std.item() == pytest.approx(300, rel=0.2)
    assert (task.predict(network(features)) - target).abs().mean() < 30


# ------------------------------------------------------------------------------------------------------- state, options
def test_statistics_survive_a_reload() -> None:
    task, fresh = Regression(VECTOR, popart=0.5), Regression(VECTOR, popart=0.5)
    task.rescale(task.target_sums(some_targets(0)), nn.Linear(4, 3))
    fresh.load_state_dict(task.state_dict())
    output = torch.randn(5, 3)
    assert torch.equal(fresh.predict(output), task.predict(output))
    heads = [nn.Linear(4, 3), nn.Linear(4, 3)]
    for each, head in zip((task, fresh), heads, strict=True):
        each.rescale(each.target_sums(some_targets(1)), head)
    torch.testing.assert_close(fresh.state_dict(), task.state_dict(), rtol=0, atol=0)


def test_nothing_is_to_be_fitted() -> None:
    task = Regression(NUMBER, popart=0.1)
    assert task.rescales
    assert task.fitted
    task.fit_target(torch.tensor([50.0, 60.0]))
    assert task.target_mean.tolist() == [0.0]


@pytest.mark.parametrize("standardize", [False, True])
def test_without_it_nothing_is_rescaled(standardize: bool) -> None:
    task, layer = Regression(NUMBER, standardize=standardize), nn.Linear(4, 1)
    before = copy.deepcopy(layer.state_dict())
    target = torch.tensor([3.0, 5.0])
    assert not task.rescales
    assert task.target_sums(target).shape == (0,)
    task.rescale(task.target_sums(target), layer)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert task.target_mean.tolist() == [0.0]


def test_is_no_kin_of_tasks_with_other_statistics() -> None:
    assert Regression(NUMBER, popart=0.1).batchable != Regression(NUMBER, popart=0.1).batchable
    assert Regression(NUMBER, popart=0.1).batchable != Regression(NUMBER).batchable


def test_either_fitted_or_moving_statistics() -> None:
    with pytest.raises(ConfigurationError, match="either `standardize` or `popart`, found both"):
        Regression(NUMBER, standardize=True, popart=0.1)
