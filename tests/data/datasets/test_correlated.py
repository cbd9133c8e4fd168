from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.data import CorrelatedRegression
from mtl_lightning.types import ConfigurationError, TensorSpec


def drawn(data: CorrelatedRegression, split: Any = "train") -> tuple[Tensor, dict[str, Tensor]]:
    rows = data.rows(split)
    batch = rows.__getitems__(range(len(rows)))
    return batch["inputs"], batch["targets"]


@pytest.mark.parametrize("correlation", [-1.0, 0.0, 0.5, 0.9, 1.0])
def test_the_weight_vectors_have_the_length_and_the_cosine_asked_for(correlation: float) -> None:
    first, second = CorrelatedRegression(correlation=correlation, scale=3.0).weights()
    assert (first @ first).item() == pytest.approx(9)
    assert (second @ second).item() == pytest.approx(9)
    assert (first @ second / 9).item() == pytest.approx(correlation, abs=1e-12)


def test_a_label_is_its_projection_with_waves_and_noise() -> None:
    data = CorrelatedRegression(noise=0.0, n=50, features=7)
    x, targets = drawn(data)
    assert data.input_spec == TensorSpec((7,))
    assert x.shape == (50, 7)
    noisy = drawn(CorrelatedRegression(noise=0.1, n=50, features=7))[1]
    for name, w in zip(("y1", "y2"), data.weights(), strict=True):
        torch.testing.assert_close(targets[name].double(), data.curve(x.double() @ w), rtol=1e-5, atol=1e-5)
        assert 0.07 < (noisy[name] - targets[name]).std() < 0.13
    assert not torch.equal(noisy["y1"] - targets["y1"], noisy["y2"] - targets["y2"])


def test_the_curve_is_a_line_and_sine_waves() -> None:
    data = CorrelatedRegression(frequencies=[2.0, 5.0], phases=[0.5, -1.0])
    points = torch.tensor([[0.0, 1.0], [-3.0, 0.25]], dtype=torch.float64)
    expected = [[s + math.sin(2 * s + 0.5) + math.sin(5 * s - 1) for s in row] for row in points.tolist()]
    torch.testing.assert_close(data.curve(points), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_without_waves_it_is_the_correlation_of_the_labels(correlation: float) -> None:
    data = CorrelatedRegression(correlation=correlation, frequencies=[], phases=[], noise=0.0, n=50_000, features=5)
    _, targets = drawn(data)
    assert torch.corrcoef(torch.stack([*targets.values()]))[0, 1].item() == pytest.approx(correlation, abs=0.02)


def test_with_waves_labels_are_the_more_alike_the_higher_it_is() -> None:
    found = []
    for correlation in (0.0, 0.5, 0.9, 1.0):
        _, targets = drawn(CorrelatedRegression(correlation=correlation))
        found.append(torch.corrcoef(torch.stack([*targets.values()]))[0, 1].item())
    assert found == sorted(found)
    assert found[-1] > 0.98


def test_only_the_second_task_depends_on_the_correlation() -> None:
    (x, related), (same_x, identical) = (drawn(CorrelatedRegression(correlation=p)) for p in (0.5, 1.0))
    assert torch.equal(x, same_x)
    assert torch.equal(related["y1"], identical["y1"])
    assert not torch.equal(related["y2"], identical["y2"])
    assert not torch.equal(related["y1"], drawn(CorrelatedRegression(seed=1))[1]["y1"])


def test_targets_are_standardised() -> None:
    data = CorrelatedRegression()
    for name, task in data.tasks.items():
        assert task.target_scale == pytest.approx(float(drawn(data)[1][name].std()), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phases": [1.0]}, r"one phase per frequency, found \[1.0\] and \[1.0, 2.0, 3.0\]"),
    ],
)
def test_wrong_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CorrelatedRegression(**arguments)
