"""Quantiles: the pinball loss by hand, an order that nothing breaks, units, coverage, and recovery."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm  # type: ignore[import-untyped]  # it ships no types
from sklearn.metrics import mean_absolute_error, mean_pinball_loss
from torch.nn import functional as F

from mtl_lightning.tasks import Quantile
from mtl_lightning.types import ConfigurationError, TargetSpec
from tests.tasks.recovery import Floats, assert_recovered, fitted_head

LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]


def test_pinball_loss_by_hand() -> None:
    task = Quantile(levels=[0.1, 0.5, 0.9])
    ln = np.log(np.expm1(1.0))  # whose softplus is 1
    output = torch.tensor([[ln, 2.0, ln]], dtype=torch.float64)  # quantiles 1, 2, 3
    torch.testing.assert_close(task.quantiles(output), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    losses = [task.loss(output, torch.tensor([y], dtype=torch.float64)).item() for y in (2.5, 0.0)]
    assert losses == pytest.approx([(0.1 * 1.5 + 0.5 * 0.5 + 0.1 * 0.5) / 3, (0.9 * 1 + 0.5 * 2 + 0.1 * 3) / 3])
    assert task.loss(output, torch.tensor([torch.nan], dtype=torch.float64)) == 0


def test_the_median_alone_is_half_the_absolute_error() -> None:
    output, target = torch.randn(20, 1), torch.randn(20)
    expected = F.l1_loss(output[:, 0], target, reduction="sum") / 2
    torch.testing.assert_close(Quantile(levels=[0.5]).loss(output, target), expected)
    assert list(Quantile(levels=[0.5]).metrics("val")) == ["mae", "pinball"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_nothing_makes_quantiles_cross(dtype: torch.dtype, mean: float) -> None:
    task = Quantile(levels=LEVELS, standardize=True)
    task.fit_target(torch.tensor([mean - 3.3, mean + 3.3], dtype=torch.float64))
    torch.manual_seed(0)
    sizes = torch.tensor([0.0, 1e-3, 1.0, 30.0, 1e3, 6e4])
    output = (torch.randn(4000, 5) * sizes[torch.randint(0, 6, (4000, 5))]).clamp(-6e4, 6e4).to(dtype).requires_grad_()
    found = task.predict(output)["quantiles"]
    assert (found.diff(dim=1) >= 0).all()
    assert found.isfinite().all()
    assert (task.estimate(output).diff(dim=1) >= 0).all()
    loss = task.loss(output, torch.full((4000,), mean, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, output)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_predictions_are_in_original_units_and_the_loss_in_standardised_ones() -> None:
    task = Quantile(TargetSpec(units="EUR"), levels=[0.2, 0.6], standardize=True)
    task.fit_target(torch.tensor([100.0, 300.0]))  # mean 200, standard deviation 100
    output = torch.tensor([[float(np.log(np.expm1(0.5))), 1.0]])  # quantiles 0.5 and 1, of which 0.6 is nearest to 0.5
    found = task.predict(output)
    torch.testing.assert_close(found["quantiles"], torch.tensor([[250.0, 300.0]]))
    assert found["value"].tolist() == [300.0]
    assert task.loss(output, torch.tensor([300.0])).item() == pytest.approx(0.2 * 0.5 / 2, rel=1e-5)
    assert task.target_scale == 100.0
    assert task.decoding() == {"form": "fields", "fields": {"value": [], "quantiles": ["0.2", "0.6"]}, "units": "EUR"}


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_agree_with_scikit_learn(weighted: bool) -> None:
    torch.manual_seed(1)
    task = Quantile(levels=LEVELS)
    metrics = task.metrics("val")
    output, target = torch.randn(300, 5), torch.randn(300)
    target[::7] = torch.nan
    weight = torch.rand(300) if weighted else None
    for rows in (slice(0, 100), slice(100, 300)):
        task.update(metrics, output[rows], target[rows], None if weight is None else weight[rows])
    kept = ~target.isnan()
    found, true = task.predict(output)["quantiles"][kept], target[kept]
    sizes = None if weight is None else weight[kept]
    losses = [mean_pinball_loss(true, found[:, i], alpha=a, sample_weight=sizes) for i, a in enumerate(LEVELS)]
    inside = ((found[:, 0] <= true) & (true <= found[:, 4])).numpy()
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(
        {
            "pinball": np.mean(losses),
            "mae": mean_absolute_error(true, found[:, 2], sample_weight=sizes),
            "coverage": np.average(inside, weights=None if sizes is None else sizes.numpy()),
        },
        rel=1e-5,
    )


def test_the_trivial_predictor_gives_the_labels_quantiles() -> None:
    task = Quantile(levels=[0.1, 0.5, 0.9], standardize=True)
    rows = torch.cat([torch.arange(1.0, 101.0), torch.tensor([torch.nan])])
    task.fit_target(rows)
    found = task.trivial_prediction(rows, torch.ones(101))
    assert found.tolist() == [10.0, 50.0, 90.0]
    shown = task.predict(task.trivial_output(found)[None])["quantiles"][0]
    torch.testing.assert_close(shown, found, rtol=1e-6, atol=1e-6)
    weights = torch.ones(101)
    weights[:10] = 0
    weights[99] = 900.0
    assert task.trivial_prediction(rows[weights > 0], weights[weights > 0]).tolist()[1:] == [100.0, 100.0]
    flat = task.trivial_output(torch.tensor([50.0, 50.0, 50.0]))
    assert flat.isfinite().all()


@pytest.mark.parametrize("levels", [[], [0.5, 0.5], [0.9, 0.1], [0.0, 0.5], [0.5, 1.0]])
def test_levels_that_are_none_are_refused(levels: list[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected `levels` between 0 and 1, ascending"):
        Quantile(levels=levels)


# ------------------------------------------------------------------------------------------------------------- recovery
GROUPS = np.array([[0.0, 1.0], [5.0, 3.0], [-2.0, 0.5]])  # mean and standard deviation of each


def recover(rows: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the quantiles of three groups that are found, true, found by sorting, and their standard errors."""
    random = np.random.default_rng(0)
    group = random.integers(0, 3, rows)
    target = GROUPS[group, 0] + GROUPS[group, 1] * random.standard_normal(rows)
    task = Quantile(levels=LEVELS)
    head = fitted_head(task, F.one_hot(torch.from_numpy(group)).double(), torch.from_numpy(target))
    found: Any = task.predict(head(torch.eye(3, dtype=torch.float64)))["quantiles"].detach().numpy()
    levels = np.array(LEVELS)
    true = GROUPS[:, :1] + GROUPS[:, 1:] * norm.ppf(levels)
    sorted_out = np.array([np.quantile(target[group == one], levels) for one in range(3)])
    sizes = np.bincount(group)[:, None]
    errors = np.sqrt(levels * (1 - levels) / sizes) / norm.pdf(norm.ppf(levels)) * GROUPS[:, 1:]
    return found.ravel(), true.ravel(), sorted_out.ravel(), errors.ravel()


def test_quantiles_are_recovered() -> None:
    found, true, sorted_out, errors = recover(6000)
    assert (np.abs(found - true) < 4 * errors).all()
    assert (np.abs(found - sorted_out) < errors / 2).all()


@pytest.mark.slow
def test_quantiles_are_recovered_from_many_rows() -> None:
    assert_recovered(*recover(50_000))
