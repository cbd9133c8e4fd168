from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.data import SyntheticRegression
from mtl_lightning.types import ConfigurationError, TensorSpec


def drawn(data: SyntheticRegression, split: Any = "train") -> tuple[Tensor, dict[str, Tensor]]:
    rows = data.rows(split)
    batch = rows.__getitems__(range(len(rows)))
    return batch["inputs"], batch["targets"]


def fitted(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Least squares: slope, intercept and the standard deviation of what is left."""
    design = torch.cat([x, torch.ones_like(x)], 1).double()
    solution = torch.linalg.lstsq(design, y[:, None].double()).solution
    return float(solution[0]), float(solution[1]), float((y[:, None] - design @ solution).std())


def test_the_two_lines_of_the_published_example() -> None:
    data = SyntheticRegression(n=200_000)
    x, targets = drawn(data)
    assert data.input_spec == TensorSpec((1,))
    assert x.shape == (200_000, 1)
    assert (float(x.mean()), float(x.std())) == pytest.approx((0, 1), abs=0.01)
    assert fitted(x, targets["y1"]) == pytest.approx((2, 8, 10), abs=0.1)
    assert fitted(x, targets["y2"]) == pytest.approx((3, 3, 1), abs=0.01)


def test_the_noise_of_tasks_rows_and_splits_is_independent() -> None:
    data = SyntheticRegression(n=20_000, n_val=20_000)
    (x, targets), (other_x, others) = drawn(data), drawn(data, "val")
    noise = [targets["y1"] - 2 * x[:, 0], targets["y2"] - 3 * x[:, 0], others["y1"], x[:, 0], other_x[:, 0]]
    correlations = torch.corrcoef(torch.stack(noise)) - torch.eye(5)
    correlations[2, 4] = correlations[4, 2] = 0  # y1 does depend on its own x
    assert correlations.abs().max() < 0.03


def test_more_tasks_take_the_documented_numbers() -> None:
    data = SyntheticRegression(num_tasks=4)
    assert list(data.tasks) == ["y1", "y2", "y3", "y4"]
    assert (data.slopes, data.intercepts, data.noise) == ([2, 3, 4, 5], [8, 3, 8, 3], [10, 1, 10, 1])


def test_a_list_says_how_many_tasks_there_are() -> None:
    data = SyntheticRegression(noise=[0.0, 0.0, 0.0], intercepts=[1, 2, 3])
    x, targets = drawn(data)
    assert torch.allclose(targets["y3"], 4 * x[:, 0] + 3)


def test_a_tasks_rows_do_not_depend_on_the_other_tasks() -> None:
    _, two = drawn(SyntheticRegression())
    _, four = drawn(SyntheticRegression(num_tasks=4))
    assert torch.equal(two["y2"], four["y2"])
    assert not torch.equal(two["y2"], drawn(SyntheticRegression(seed=1))[1]["y2"])


def test_targets_are_not_standardised() -> None:
    assert all(task.target_scale == 1 for task in SyntheticRegression().tasks.values())


def test_the_splits_have_the_sizes_asked_for() -> None:
    data = SyntheticRegression(n=7, n_val=5, n_test=3, batch_size=10)
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    assert [len(next(iter(loader))["inputs"]) for loader in loaders] == [7, 5, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slopes": [1.0], "num_tasks": 2}, "expected 2 slopes, one per task, found 1"),
        ({"slopes": [1.0], "noise": [1.0, 2.0]}, "expected 1 noise, one per task, found 2"),
    ],
)
def test_wrong_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SyntheticRegression(**arguments)
