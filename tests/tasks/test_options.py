"""Options out of range are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, MultilabelClassification
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import ConfigurationError, TargetSpec

BINARY = partial(BinaryClassification, TargetSpec())
CLASSES = partial(MulticlassClassification, TargetSpec(classes=3))
LABELS = partial(MultilabelClassification, TargetSpec(classes=3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LABELS(label_smoothing=-0.1), "found -0.1"),
        (lambda: CLASSES(class_weights=[1.0, float("nan"), 1.0]), "found .*nan"),
        (lambda: MulticlassClassification(TargetSpec()), "at least 2 `classes` in the TargetSpec, found None"),
        (lambda: MulticlassClassification(TargetSpec(classes=1)), "found 1.*Use BinaryClassification"),
        (lambda: MultilabelClassification(TargetSpec()), "found None"),
        (lambda: MultilabelClassification(TargetSpec(shape=(3,), classes=4)), r"shape \(4,\) for 4 labels .* \(3,\)"),
        (lambda: BinaryClassification(TargetSpec(classes=5)), "found 5. Use MulticlassClassification"),
        (lambda: BinaryClassification(TargetSpec(shape=(2,))), r"one label a row, shape \(\) .*, found \(2,\)"),
    ],
)
def test_out_of_range(make: Callable[[], Task], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()
