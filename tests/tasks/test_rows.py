"""Shapes, dtypes and messages of targets with one label, or one vector, per row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, MultilabelClassification, Regression
from mtl_lightning.tasks.rows import RowTask
from mtl_lightning.types import TargetError, TargetSpec

BINARY, DIGIT = BinaryClassification(TargetSpec()), MulticlassClassification(TargetSpec(classes=10))
LABELS, DEPTH = MultilabelClassification(TargetSpec(classes=3)), Regression(TargetSpec())
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("task", [BINARY, DIGIT, DEPTH])
def test_a_column_is_as_good_as_a_row(task: RowTask) -> None:
    torch.manual_seed(0)
    output, target = torch.randn(4, task.output_size), torch.tensor([1, 0, 1, 1])
    target = target.float() if task is DEPTH else target
    column = target[:, None]
    task.check(column)
    assert torch.equal(task.loss(output, column), task.loss(output, target))
    assert torch.equal(task.count(column), task.count(target))
    assert task.labelled(column).shape == (4,)


def test_one_output_is_a_vector_if_the_spec_says_so() -> None:
    vector = Regression(TargetSpec(shape=(1,)))
    assert vector.predict(torch.zeros(2, 1)).shape == (2, 1)
    assert DEPTH.predict(torch.zeros(2, 1)).shape == (2,)
    with pytest.raises(TargetError, match=r"expected a target of shape \(B, 1\), found \(2,\)"):
        vector.check(torch.zeros(2))


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        (DIGIT, torch.tensor([0, 9, -100, 12]), "expected classes 0..9 or -100 for missing, found 12 in row 3"),
        (DIGIT, torch.tensor([[0], [-1]]), "expected classes 0..9 or -100 for missing, found -1 in row 1"),
        (DIGIT, torch.zeros(2), "expected classes 0..9 or -100 .* of an integer dtype, found torch.float32"),
        (DIGIT, torch.zeros(2).bool(), "found torch.bool"),
        (BINARY, torch.tensor([0, 1, 2]), r"expected 0, 1, or a missing label \(-100 .*, nan .*\), found 2 in row 2"),
        (BINARY, torch.tensor([0.0, 0.5]), "found 0.5 in row 1"),
        (BINARY, torch.tensor([-100.0]), "found -100.0 in row 0"),
        (LABELS, torch.tensor([[0, 1, 1], [-100, 0, 3]]), "found 3 in row 1, column 2"),
        (LABELS, torch.tensor([0, 1, 1]), r"expected a target of shape \(B, 3\), found \(3,\)"),
        (DEPTH, torch.tensor([0.0, NAN, INF]), "expected finite numbers or nan for missing, found inf in row 2"),
        (DEPTH, torch.tensor([0, 1]), "expected finite numbers .* of a floating-point dtype, found torch.int64"),
        (DEPTH, torch.zeros(2, 3), r"expected a target of shape \(B,\) or \(B, 1\), found \(2, 3\)"),
    ],
)
def test_messages(task: RowTask, target: Tensor, message: str) -> None:
    with pytest.raises(TargetError, match=f"{type(task).__name__}: .*{message}"):
        task.check(target)


def test_unsigned_integers_do_not_wrap_around_to_missing() -> None:
    target = torch.tensor([0, 1, 156], dtype=torch.uint8)  # 156 is -100 in 8 bits
    assert MulticlassClassification(TargetSpec(classes=200)).count(target) == 3
    assert BINARY.count(target).isnan()
