"""Where uncertainty weighting settles, and where it starts with ``init="first_batch"``: optima in closed form."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.tasks import MulticlassClassification, MultilabelClassification, Regression, Task
from mtl_lightning.tasks.likelihoods import GAUSSIAN
from mtl_lightning.types import Likelihood, TargetSpec
from tests.balancing.uncertainty_cases import (
    LIKELIHOODS,
    Regularizer,
    each_likelihood,
    each_regularizer,
    has_started,
    make,
    s_of,
)

LOSSES = torch.tensor([0.02, 0.3, 1.0, 2.5, 0.8, 7.0, 0.1, 40.0], dtype=torch.float64)


def minimise(balancer: UncertaintyWeighting, losses: Tensor) -> None:
    """Optimise every s alone, the losses fixed."""
    optimizer = torch.optim.LBFGS(
        balancer.parameters(), max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        objective: Tensor = balancer(losses)
        torch.autograd.backward(objective)
        return objective.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def closed_form(likelihood: Likelihood, loss: float, regularizer: str) -> float:
    """The s with the smallest term, derived by hand."""
    a, b, scale = likelihood
    if regularizer == "kendall":
        return math.log(a * loss / b)
    if scale == "log_var":  # a L / v + c log(1 + v) with c = 2b: c v^2 = a L (1 + v)
        c = 2 * b
        return math.log((a * loss + math.sqrt((a * loss) ** 2 + 4 * c * a * loss)) / (2 * c))
    k = a * loss / (2 * b)  # a L / t + b log(1 + t^2): t^3 = k (1 + t^2), which has one positive root
    (root,) = [r.real for r in np.roots([1.0, -k, 0.0, -k]) if abs(r.imag) < 1e-9 and r.real > 0]
    return math.log(root)


# --------------------------------------------------------------------------------------------------------- the optimum
@each_regularizer
@each_likelihood
def test_optimum_of_s_alone(name: str, regularizer: Regularizer) -> None:
    likelihood = LIKELIHOODS[name]
    for loss in (0.05, 1.0, 30.0):
        balancer = make({name: likelihood}, regularizer=regularizer)
        minimise(balancer, torch.tensor([loss], dtype=torch.float64))
        assert s_of(balancer).item() == pytest.approx(closed_form(likelihood, loss, regularizer), abs=1e-3)


@each_likelihood
def test_weight_at_the_optimum_is_b_over_the_loss(name: str) -> None:
    balancer = make({name: LIKELIHOODS[name]}, init="first_batch")
    losses = torch.tensor([1.7], dtype=torch.float64, requires_grad=True)
    balancer(losses).backward()
    assert losses.grad is not None
    assert losses.grad.item() == pytest.approx(LIKELIHOODS[name].b / 1.7, rel=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sigma_of_a_vector_is_its_root_mean_squared_error(reduction: Literal["mean", "sum"]) -> None:
    torch.manual_seed(0)
    task = Regression(TargetSpec(shape=(5,)), reduction=reduction)
    output, target = torch.zeros(400, 5, dtype=torch.float64), 3 * torch.randn(400, 5, dtype=torch.float64)
    balancer = make({"vector": task.likelihood})
    minimise(balancer, (task.loss(output, target) / task.count(target)).reshape(1))
    assert balancer.sigmas().item() == pytest.approx(target.square().mean().sqrt().item(), rel=1e-3)


def test_scale_of_laplace_noise_is_its_mean_absolute_error() -> None:
    torch.manual_seed(0)
    task = Regression(TargetSpec(), loss="l1")
    noise = torch.distributions.Laplace(0.0, 2.0).sample((4000,)).double()
    balancer = make({"noisy": task.likelihood})
    minimise(balancer, (task.loss(torch.zeros(4000, 1, dtype=torch.float64), noise) / 4000).reshape(1))
    assert balancer.sigmas().item() == pytest.approx(math.sqrt(2) * noise.abs().mean().item(), rel=1e-3)
    assert balancer.sigmas().item() == pytest.approx(noise.std().item(), rel=0.05)  # a standard deviation indeed


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (MulticlassClassification(TargetSpec(classes=7)), torch.arange(600) % 7),
        (MultilabelClassification(TargetSpec(classes=3), reduction="sum"), torch.arange(1800).reshape(600, 3) % 2),
    ],
    ids=["softmax", "bernoulli"],
)
def test_temperature_of_a_frozen_classifier_is_twice_its_cross_entropy(task: Task, target: Tensor) -> None:
    torch.manual_seed(0)
    output = torch.randn(600, task.output_size)
    balancer = UncertaintyWeighting(1)
    balancer.bind({"label": task.likelihood})
    optimizer = torch.optim.Adam(balancer.parameters(), lr=1e-2)
    cross_entropy = task.loss(output, target) / task.count(target)
    for _ in range(600):
        optimizer.zero_grad()
        balancer(cross_entropy.reshape(1)).backward()
        optimizer.step()
        balancer.after_update(cross_entropy.reshape(1).clone)
    assert s_of(balancer).exp().item() == pytest.approx(2 * cross_entropy.item(), rel=0.01)


# --------------------------------------------------------------------------------------------------- the first batch
@each_regularizer
def test_first_batch_starts_at_the_optimum(regularizer: Regularizer) -> None:
    balancer = make(LIKELIHOODS, init="first_batch", regularizer=regularizer)
    assert not has_started(balancer)
    objective = balancer(LOSSES)
    assert has_started(balancer)
    pairs = zip(LIKELIHOODS.values(), LOSSES.tolist(), strict=True)
    expected = [closed_form(likelihood, loss, regularizer) for likelihood, loss in pairs]
    assert s_of(balancer).tolist() == pytest.approx(expected, abs=1e-9)
    torch.autograd.backward(objective)
    assert all(s.grad is not None and abs(s.grad.item()) < 1e-9 for s in balancer.log_vars)


def test_first_batch_starts_once_per_task_when_it_is_present() -> None:
    balancer = make({"a": GAUSSIAN, "b": GAUSSIAN}, init="first_batch")
    balancer.objective(torch.tensor([4.0, float("nan")]), torch.tensor([True, False]))
    assert not has_started(balancer)
    assert s_of(balancer).tolist() == pytest.approx([math.log(4.0), 0.0])
    balancer.objective(torch.tensor([9.0, 0.5]), torch.tensor([True, True]))
    assert has_started(balancer)
    assert s_of(balancer).tolist() == pytest.approx([math.log(4.0), math.log(0.5)])
    balancer.objective(torch.tensor([1.0, 1.0]), torch.tensor([True, True]))
    assert s_of(balancer).tolist() == pytest.approx([math.log(4.0), math.log(0.5)])


def test_first_batch_does_not_start_in_validation_or_at_a_loss_that_is_not_finite() -> None:
    balancer = make({"a": GAUSSIAN}, init="first_batch")
    balancer.eval()(torch.tensor([4.0]))
    balancer.train()(torch.tensor([float("inf")]))
    assert not has_started(balancer)
    assert s_of(balancer).item() == 0.0


@pytest.mark.parametrize(("loss", "expected"), [(0.0, -3.0), (1e-9, -3.0), (1e9, 2.0)])
def test_first_batch_stays_within_bounds(loss: float, expected: float) -> None:
    balancer = make({"a": GAUSSIAN}, init="first_batch", bounds=(-3.0, 2.0))
    balancer(torch.tensor([loss]))
    assert s_of(balancer).item() == pytest.approx(expected)
    assert -3.0 <= s_of(balancer).item() <= 2.0


def test_a_resumed_run_does_not_start_again() -> None:
    balancer = make({"a": GAUSSIAN, "b": GAUSSIAN}, init="first_batch")
    balancer.objective(torch.tensor([4.0, 0.0]), torch.tensor([True, False]))
    resumed = make({"a": GAUSSIAN, "b": GAUSSIAN}, init="first_batch")
    nn.ModuleDict({"balancer": resumed}).load_state_dict(nn.ModuleDict({"balancer": balancer}).state_dict())
    assert not has_started(resumed)
    resumed(torch.tensor([1.0, 2.0]))
    assert s_of(resumed).tolist() == pytest.approx([math.log(4.0), math.log(2.0)])
    resumed_again = make({"a": GAUSSIAN, "b": GAUSSIAN}, init="first_batch")
    resumed_again.load_state_dict(resumed.state_dict())
    assert has_started(resumed_again)
