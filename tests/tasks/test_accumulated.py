"""Updates of accumulated halves are those of the whole batch, for tasks with noise levels, counts and transforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.tasks import Count, HeteroscedasticRegression, Regression, ZeroInflatedLogNormal
from mtl_lightning.types import Batch
from tests.helpers import assert_same, fit, make_module, make_rows, weights_of


def batches(rows: int) -> list[Batch]:
    """Batches of 48 rows in all whose labels are missing unevenly."""
    inputs, made = make_rows(48)
    amount = made["number"].clamp(min=0).masked_fill(torch.arange(48) % 3 == 0, torch.nan)
    counts = amount.round()
    targets = {
        "count": torch.stack([counts, inputs[:, 0].abs() + 0.5], 1),
        "scattered": counts,
        "noisy": amount,
        "spent": amount,
        "skewed": amount,
    }
    cuts = torch.split(torch.arange(48), rows)
    return [{"inputs": inputs[cut], "targets": {name: target[cut] for name, target in targets.items()}} for cut in cuts]


@pytest.mark.parametrize("balancer", [None, UncertaintyWeighting])
def test_accumulated_halves_are_the_whole(balancer: Any) -> None:
    ended = []
    for rows, times in ((16, 1), (8, 2)):
        tasks: dict[str, Any] = {
            "count": Count(exposure=True),
            "scattered": Count(distribution="negative_binomial"),
            "noisy": HeteroscedasticRegression(beta=0.5),
            "spent": ZeroInflatedLogNormal(),
            "skewed": Regression(transform="log1p"),
        }
        module = make_module(tasks=tasks, **({} if balancer is None else {"balancer": balancer}))
        before = weights_of(module)
        fit(module, batches(rows), accumulate_grad_batches=times)
        ended.append(weights_of(module))
        assert all(not torch.equal(before[name], weight) for name, weight in ended[-1].items())
    assert_same(ended[1], ended[0], atol=1e-10)
