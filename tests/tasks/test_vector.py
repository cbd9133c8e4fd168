"""A vector with a noise level per output: closed forms, training, missing labels, what is recorded, checkpoints."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.core.network.calibration import misfit
from mtl_lightning.tasks import Regression, VectorRegression
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec
from tests.helpers import assert_same, fit, make_module, weights_of

NOISE = torch.tensor([0.5, 20.0, 3000.0], dtype=torch.float64)
FACTORS = torch.tensor([[1.0, 30.0, -2000.0], [-2.0, 10.0, 500.0]], dtype=torch.float64)


def rows(number: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (N, 2), means (N, 3) and targets of very different noise, a third of the second output's missing."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 2, generator=random, dtype=torch.float64)
    mean = inputs @ FACTORS + 7
    target = mean + NOISE * torch.randn(number, 3, generator=random, dtype=torch.float64)
    target[::3, 1] = torch.nan
    return inputs, mean, target


def batch(inputs: Tensor, target: Tensor) -> dict[str, Any]:
    return {"inputs": inputs, "targets": {"v": target}}


def task_of(target: Tensor, loss: Literal["mse", "l1"] = "mse") -> VectorRegression:
    task = VectorRegression(output_names=["a", "b", "c"], loss=loss, standardize=True)
    task.fit_target(target)
    return task


def module_of(task: VectorRegression, **options: Any) -> MultiTaskModule:
    defaults: dict[str, Any] = {"architecture": nn.Identity(), "balancer": UncertaintyWeighting}
    return make_module(tasks={"v": task}, input_spec=TensorSpec((2,)), **{**defaults, **options})


def levels(residual: Tensor, weight: Tensor, loss: str) -> Tensor:
    """The noise levels (D,) with the largest likelihood, as standard deviations."""
    there = ~residual.isnan() * weight[:, None]
    size = residual.nan_to_num()
    mean = (there * (size.square() if loss == "mse" else size.abs())).sum(0) / there.sum(0)
    return mean.sqrt() if loss == "mse" else math.sqrt(2) * mean


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_of_true_predictions_noise_levels_are_those_of_the_closed_form(
    loss: Literal["mse", "l1"], weighted: bool
) -> None:
    _, mean, target = rows(20_000)
    task = task_of(target, loss).double()
    weight = torch.rand(len(target), dtype=torch.float64) if weighted else torch.ones(len(target)).double()
    output = (mean - task.target_mean) / task.target_std
    search: Any = torch.optim.LBFGS(task.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        found = task.loss(task.complete(output), target, weight) / task.count(target, weight)
        found.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return found

    search.step(closure)
    found = task.output_sigmas()
    torch.testing.assert_close(found, levels(target - mean, weight, loss), rtol=1e-4, atol=0)
    if loss == "mse":
        torch.testing.assert_close(found, NOISE, rtol=0.03, atol=0)


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_training_learns_the_noise_of_each_output(loss: Literal["mse", "l1"]) -> None:
    inputs, _, target = rows(2_000)
    task = task_of(target, loss)
    module = module_of(task, optimizers={"default": partial(Adam, lr=0.02)})
    fit(module, [batch(inputs, target)] * 600)
    with torch.no_grad():
        residual = target - module.predict(inputs)["v"]
    expected = levels(residual, torch.ones(len(target), dtype=torch.float64), loss)
    torch.testing.assert_close(task.output_sigmas(), expected, rtol=0.01, atol=0)
    assert module.sigmas().keys() == {"v"}
    assert module.sigmas(original_units=True) == {}


def test_an_output_without_labels_keeps_its_noise_level() -> None:
    inputs, _, target = rows(200)
    task = task_of(target)
    none = target.clone()
    none[:, 2] = torch.nan
    module = module_of(task, optimizers={"default": partial(SGD, lr=0.1)})
    fit(module, [batch(inputs, none)] * 20)
    assert task.log_scale[2] == 0
    assert (task.log_scale[:2] != 0).all()

    def ended(without: int) -> Tensor:
        task = task_of(target)
        data = [batch(inputs, target)] * 20 + [batch(inputs, none)] * without
        fit(module_of(task, optimizers={"default": partial(Adam, lr=0.02)}), data)
        return task.log_scale.detach().double()

    before, soon, late = ended(0), ended(100), ended(200)
    assert abs(soon[2] - before[2]) < 10 * 0.02  # what is left of the momentum
    assert abs(late[2] - soon[2]) < 1e-4
    assert (late[:2] - before[:2]).abs().min() > 0.5


def test_noise_levels_are_recorded_in_the_targets_units(tmp_path: Path) -> None:
    inputs, _, target = rows(50)
    task = task_of(target)
    logger = TensorBoardLogger(tmp_path)
    module = module_of(task)
    fit(module, [batch(inputs, target)] * 3, logger=logger, log_every_n_steps=1)
    events = EventAccumulator(str(logger.log_dir)).Reload()
    for name, std in zip("abc", task.target_std.tolist(), strict=True):
        values = [event.value for event in events.Scalars(f"train/sigma/v/{name}")]
        assert len(values) == 3
        assert values[0] == pytest.approx(std, rel=1e-5)  # before the first step
        assert values[2] != values[0]
    assert len(events.Scalars("train/sigma/v")) == 3


def test_they_are_of_the_task_and_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    inputs, _, target = rows(60)
    data = [batch(inputs[k : k + 10], target[k : k + 10]) for k in range(0, 60, 10)]
    optimizers = {"default": partial(Adam, lr=0.02)}
    whole, first = (module_of(task_of(target), optimizers=optimizers) for _ in range(2))
    assert "tasks.v.log_scale" in whole.plan.groups["v"]
    fit(whole, data, max_epochs=2, enable_checkpointing=False)
    fit(first, data, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    again = module_of(task_of(target), seed=1, optimizers=optimizers)
    fit(again, data, max_epochs=2, ckpt_path=str(tmp_path / "a.ckpt"))
    ended = weights_of(whole)
    assert (ended["tasks.v.log_scale"] != weights_of(first)["tasks.v.log_scale"]).all()
    assert_same(weights_of(again), ended)


def test_the_best_constant_has_the_noise_levels_of_the_labels() -> None:
    _, _, target = rows(500)
    task = task_of(target)
    ones = torch.ones(len(target))
    output = task.trivial_output(task.trivial_prediction(target, ones)).expand(len(target), -1)
    torch.testing.assert_close(output, torch.zeros_like(output), rtol=0, atol=1e-9)
    loss = task.loss(output, target) / task.count(target)
    assert loss == pytest.approx(math.log(1 / task.least_std) + 0.5)  # standardised: each has a deviation of 1


def test_predictions_are_those_of_regression() -> None:
    _, _, target = rows(100)
    task, plain = task_of(target), Regression(num_outputs=3, standardize=True)
    plain.fit_target(target)
    numbers = torch.randn(5, 3)
    assert torch.equal(task.predict(task.complete(numbers)), plain.predict(numbers))
    assert torch.equal(task.estimate(task.complete(numbers)), numbers)
    assert task.complete(torch.ones(5, 6)).shape == (5, 6)


def test_intervals_are_of_the_numbers_not_of_the_scales() -> None:
    task = task_of(rows(100)[2])
    output, target = task.complete(torch.zeros(4, 3)), torch.zeros(4, 3)
    assert [tuple(part.shape) for part in task.calibration_rows(output, target)] == [(4, 3)] * 3
    known = {"method": "conformal", "coverage": 0.9, "by": None, "groups": None}
    assert misfit({"v": {**known, "half_width": [1.0] * 3}}, {"v": task}) is None
    assert misfit({"v": {**known, "half_width": [1.0] * 6}}, {"v": task})


def test_what_it_cannot_be_is_said() -> None:
    with pytest.raises(ConfigurationError, match=r"vector \(D,\) per row in the TargetSpec, found \(\)"):
        VectorRegression(TargetSpec())
    with pytest.raises(ConfigurationError, match="expected `num_outputs` or a TargetSpec, found neither"):
        VectorRegression()
    with pytest.raises(ConfigurationError, match=r"expected `loss` in \['mse', 'l1'\], found 'huber'"):
        VectorRegression(num_outputs=2, loss="huber")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="`least_std`: expected a number above 0 and below 1, found 2"):
        VectorRegression(num_outputs=2, least_std=2.0)
