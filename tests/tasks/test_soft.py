"""Labels that are probabilities: the loss is the cross-entropy, metrics and figures compare with the likelier label."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.callbacks import ConfusionMatrices, PRCurves
from mtl_lightning.data import TableData, TargetColumn
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, MultilabelClassification, Task
from mtl_lightning.types import TargetError
from tests.helpers import INPUTS, fit, loader_of, make_module, make_trainer, weights_of

ROWS = 60
NAN = float("nan")


def made() -> dict[str, Task]:
    return {
        "click": BinaryClassification(soft=True),
        "tags": MultilabelClassification(num_labels=3, soft=True),
        "kind": MulticlassClassification(num_classes=4, soft=True),
    }


def targets(rows: int = ROWS, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    found = {"click": draw(rows), "tags": draw(rows, 3), "kind": (5 * draw(rows, 4)).softmax(1)}
    found["click"][::5], found["tags"][::4, 1], found["kind"][::6, 2] = NAN, NAN, NAN
    return found


def by_hand(name: str, output: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy of the labels there are."""
    if name == "kind":
        there = ~target.isnan().any(1)
        return F.cross_entropy(output[there], target[there])
    target = target.reshape(output.shape)
    there = ~target.isnan()
    return F.binary_cross_entropy_with_logits(output[there], target[there])


@pytest.mark.parametrize("name", ["click", "tags", "kind"])
def test_the_loss_is_the_cross_entropy(name: str) -> None:
    task, target = made()[name], targets()[name]
    output = torch.randn(ROWS, task.output_size, dtype=torch.float64, requires_grad=True)
    loss = task.loss(output, target) / task.count(target)
    torch.testing.assert_close(loss, by_hand(name, output, target))
    (gradient,) = torch.autograd.grad(loss, output)
    (expected,) = torch.autograd.grad(by_hand(name, output, target), output)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("soft", "hard"),
    [
        (MulticlassClassification(num_classes=4, soft=True), MulticlassClassification(num_classes=4)),
        (
            MulticlassClassification(num_classes=4, soft=True, class_weights=[1, 2, 3, 4], label_smoothing=0.2),
            MulticlassClassification(num_classes=4, class_weights=[1, 2, 3, 4], label_smoothing=0.2),
        ),
        (
            MulticlassClassification(num_classes=4, soft=True, focal=2.0),
            MulticlassClassification(num_classes=4, focal=2.0),
        ),
        (
            MulticlassClassification(num_classes=4, soft=True, class_weights="balanced"),
            MulticlassClassification(num_classes=4, class_weights="balanced"),
        ),
    ],
    ids=["plain", "weights and smoothing", "focal", "balanced"],
)
def test_certain_labels_are_hard_ones(soft: MulticlassClassification, hard: MulticlassClassification) -> None:
    classes = torch.randint(4, (ROWS,))
    classes[::7] = -100
    certain = F.one_hot(classes.clamp(min=0), 4).double()
    certain[::7] = NAN
    for task, target in ((soft, certain), (hard, classes)):
        task.fit_target(target)
    output = torch.randn(ROWS, 4, dtype=torch.float64)
    torch.testing.assert_close(soft.loss(output, certain), hard.loss(output, classes))
    there = classes >= 0
    weight = torch.rand(int(there.sum()))
    torch.testing.assert_close(
        soft.trivial_prediction(certain[there], weight), hard.trivial_prediction(classes[there], weight)
    )


@pytest.mark.parametrize("name", ["click", "tags", "kind"])
def test_no_constant_has_less_loss_than_the_trivial_predictor(name: str) -> None:
    task, target = made()[name], targets()[name]
    rows, weight = target[task.has_label(target)], torch.ones(int(task.has_label(target).sum()))
    best = task.trivial_output(task.trivial_prediction(rows, weight)).double().requires_grad_()
    task.rows_loss(best.expand(len(rows), -1), rows, weight.double()).backward()  # type: ignore[no-untyped-call]
    assert best.grad is not None
    assert best.grad.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (BinaryClassification(soft=True), torch.tensor([0.5, 1.5])),
        (BinaryClassification(), torch.tensor([0.5, 1.0])),
        (MulticlassClassification(num_classes=2, soft=True), torch.tensor([[0.5, 0.5], [0.5, 0.6]])),
        (MulticlassClassification(num_classes=2, soft=True), torch.tensor([0, 1])),
        (MulticlassClassification(num_classes=2, soft=True), torch.tensor([0.5, 0.5])),
    ],
)
def test_what_is_no_probability_is_refused(task: Task, target: Tensor) -> None:
    with pytest.raises(TargetError, match="expected"):
        task.check(target)


def test_they_are_learned_shown_and_taken_up_again(tmp_path: Path) -> None:
    batches: Any = [{"inputs": torch.randn(ROWS, INPUTS).double(), "targets": targets(seed=seed)} for seed in range(2)]
    options: dict[str, Any] = {"callbacks": [PRCurves(), ConfusionMatrices()], "default_root_dir": tmp_path}
    module = make_module(tasks=made())
    trainer = fit(module, batches, batches, logger=True, max_epochs=2, **options)
    accuracy = trainer.callback_metrics["val/accuracy/kind"]
    kind = torch.cat([batch["targets"]["kind"] for batch in batches])
    there = ~kind.isnan().any(1)
    inputs = torch.cat([batch["inputs"] for batch in batches])
    predicted: Any = module.predict(inputs)
    expected = (predicted["kind"]["label"] == kind.argmax(1))[there].double().mean()
    assert accuracy.item() == pytest.approx(expected.item())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = make_module(tasks=made(), seed=1)
    make_trainer().test(again, loader_of(batches), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert all(torch.equal(weight, weights_of(module)[name]) for name, weight in weights_of(again).items())


def test_halves_that_are_accumulated_are_the_whole() -> None:
    whole: Any = {"inputs": torch.randn(ROWS, INPUTS).double(), "targets": targets()}
    halves = [
        {"inputs": whole["inputs"][part::2], "targets": {n: t[part::2] for n, t in whole["targets"].items()}}
        for part in (0, 1)
    ]
    one, two = make_module(tasks=made()), make_module(tasks=made())
    fit(one, [whole])
    fit(two, halves, accumulate_grad_batches=2)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weight, weights_of(two)[name], rtol=0, atol=1e-10)


def test_a_column_of_a_table_holds_them(tmp_path: Path) -> None:
    rows = "".join(f"{n % 9},{n % 11 / 10}\n" for n in range(100))
    (tmp_path / "t.csv").write_text(f"x,click\n{rows}")
    data = TableData(
        train=str(tmp_path / "t.csv"),
        val=str(tmp_path / "t.csv"),
        targets={"click": TargetColumn(kind="number")},
        tasks={"click": partial(BinaryClassification, soft=True)},
    )
    trainer = make_trainer(precision="32-true")
    trainer.fit(
        make_module(
            tasks=data.tasks, input_spec=data.input_spec, architecture=partial(SharedBottom, encoder=TabularEncoder)
        ),
        data,
    )
    assert 0.6 < trainer.callback_metrics["val/loss/click"] < 1
