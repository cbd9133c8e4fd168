"""Which term fits which loss, and the number of elements in it."""

from __future__ import annotations

from typing import Any

import pytest

from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, MultilabelClassification, Regression
from mtl_lightning.tasks.likelihoods import GAUSSIAN, of_reduction
from mtl_lightning.types import ConfigurationError, Likelihood, TargetSpec


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Regression(TargetSpec()), (0.5, 0.5, "log_var")),
        (Regression(TargetSpec(), loss="l1"), (1.0, 1.0, "log_scale")),
        (Regression(TargetSpec(), loss="huber"), (1.0, 0.5, "log_var")),
        (Regression(TargetSpec(shape=(4,))), (0.5, 0.5, "log_var")),
        (Regression(TargetSpec(shape=(4,)), reduction="sum"), (2.0, 2.0, "log_var")),
        (Regression(TargetSpec(shape=(4,)), loss="l1", reduction="sum"), (4.0, 4.0, "log_scale")),
        (Regression(TargetSpec(), reduction="sum"), (0.5, 0.5, "log_var")),
        (BinaryClassification(TargetSpec()), (1.0, 0.5, "log_var")),
        (MulticlassClassification(TargetSpec(classes=9)), (1.0, 0.5, "log_var")),
        (MultilabelClassification(TargetSpec(classes=6)), (1.0, 0.5, "log_var")),
        (MultilabelClassification(TargetSpec(classes=6), reduction="sum"), (6.0, 3.0, "log_var")),
    ],
)
def test_term_of_each_task(task: Any, expected: tuple[float, float, str]) -> None:
    assert tuple(task.likelihood) == expected


def test_own_terms_are_multiplied_too() -> None:
    assert of_reduction(Likelihood(0.3, 0.2, "log_scale"), 10, "sum") == pytest.approx((3.0, 2.0, "log_scale"))
    assert of_reduction(GAUSSIAN, 10, "mean") == GAUSSIAN


def test_another_reduction_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected 'mean' or 'sum' over a row's elements, found 'none'"):
        Regression(TargetSpec(), reduction="none")  # type: ignore[arg-type]  # what this test is about
