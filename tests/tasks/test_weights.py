"""Metrics with sample weights: scikit-learn's figures; without them, those of torchmetrics."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torchmetrics
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics import classification as tm

from mtl_lightning import MultiTaskModule
from mtl_lightning.data import MultiTaskDataModule, TensorRows
from mtl_lightning.tasks import (
    BinaryClassification,
    DepthEstimation,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
    SemanticSegmentation,
    SurfaceNormals,
    Task,
)
from mtl_lightning.tasks.weighted_auroc import WeightedBinaryAUROC
from mtl_lightning.types import ConfigurationError, TargetSpec, TensorSpec, input_spec_to_dict
from tests.helpers import TinyData, loader_of, make_batches, make_module, make_tasks, make_trainer, with_gaps

ROWS = 240
WEIGHTED = pytest.mark.parametrize("scale", [1.0, 37.5])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(rows: int = ROWS) -> Tensor:
    """Weights in 0..2, a fifth of them 0."""
    return (torch.rand(rows, generator=torch.Generator().manual_seed(9)) * 2.5 - 0.5).clamp(min=0)


def measured(task: Task, output: Tensor, target: Tensor, weight: Tensor | None = None) -> dict[str, float]:
    """The task's metrics, fed in uneven batches."""
    metrics = task.metrics("val")
    for start, end in ((0, 7), (7, 100), (100, 101), (101, len(target))):
        rows = slice(start, end)
        more = () if weight is None else (weight[rows],)
        task.update(metrics, output[rows], target[rows], *more)
    return {name: float(value) for name, value in metrics.compute().items()}


def binary() -> tuple[Tensor, Tensor]:
    """Logits with ties, and labels, some of them missing."""
    logit = (random(ROWS, 1) * 4).round() / 4
    target = (logit[:, 0] + random(ROWS, seed=1) > 0).long()
    return logit, target.masked_fill(random(ROWS, seed=2) > 1, -100)


def multiclass() -> tuple[Tensor, Tensor]:
    """Five classes, of which one is never true and one never predicted nor true."""
    logit = random(ROWS, 5)
    logit[:, 4] -= 100
    target = (logit[:, :3] + random(ROWS, 3, seed=1)).argmax(1)
    return logit, target.masked_fill(random(ROWS, seed=2) > 1, -100)


def multilabel() -> tuple[Tensor, Tensor]:
    logit = random(ROWS, 3)
    target = (logit + random(ROWS, 3, seed=1) > 0).long()
    return logit, target.masked_fill(random(ROWS, 3, seed=2) > 1, -100)


# ------------------------------------------------------------------------------------------------------ without weights
def test_without_weights_they_are_those_of_torchmetrics() -> None:
    logit, target = binary()
    kept = target != -100
    found = measured(BinaryClassification(TargetSpec()), logit, target)
    metric: Any
    for name, metric in (("accuracy", tm.BinaryAccuracy()), ("auroc", tm.BinaryAUROC()), ("f1", tm.BinaryF1Score())):
        expected = metric(logit[:, 0].sigmoid()[kept], target[kept])
        assert found[name] == pytest.approx(float(expected), abs=1e-6 if name == "auroc" else 0)

    logit, target = multiclass()
    kept = target != -100
    found = measured(MulticlassClassification(TargetSpec(classes=5)), logit, target)
    for name, metric in (
        ("accuracy", tm.MulticlassAccuracy(5, average="micro")),
        ("f1", tm.MulticlassF1Score(5, average="macro")),
    ):
        assert found[name] == pytest.approx(float(metric(logit[kept], target[kept])), abs=1e-7)

    logit, target = multilabel()
    found = measured(MultilabelClassification(TargetSpec(shape=(3,), classes=3)), logit, target)
    options: dict[str, Any] = {"num_labels": 3, "ignore_index": -100}
    for name, metric in (
        ("accuracy", tm.MultilabelAccuracy(average="micro", **options)),
        ("auroc", tm.MultilabelAUROC(**options)),
        ("f1", tm.MultilabelF1Score(**options)),
    ):
        assert found[name] == pytest.approx(float(metric(logit.sigmoid(), target)), abs=1e-6)

    output, number = random(ROWS, 1), random(ROWS, seed=1)
    found = measured(Regression(TargetSpec()), output, number)
    assert found["mae"] == pytest.approx(float(torchmetrics.MeanAbsoluteError()(output[:, 0], number)), rel=1e-6)
    rmse = torchmetrics.MeanSquaredError(squared=False)
    assert found["rmse"] == pytest.approx(float(rmse(output[:, 0], number)), rel=1e-6)


def test_dense_ones_too() -> None:
    logit, target = random(6, 4, 9, 8), torch.randint(0, 3, (6, 9, 8), generator=torch.Generator().manual_seed(3))
    target[0, :4] = -100
    task = SemanticSegmentation(TargetSpec(shape=(9, 8), classes=4))
    metrics = task.metrics("val")
    task.update(metrics, logit, target)
    kept = target != -100
    labels = logit.argmax(1)[kept], target[kept]
    iou = tm.MulticlassJaccardIndex(4, average="macro")(*labels)
    assert float(metrics["miou"].compute()) == pytest.approx(float(iou), abs=1e-7)
    right = tm.MulticlassAccuracy(4, average="micro")(*labels)
    assert float(metrics["pixel_accuracy"].compute()) == float(right)


# --------------------------------------------------------------------------------------------------------- with weights
@WEIGHTED
def test_binary_ones_are_those_of_scikit_learn(scale: float) -> None:
    (logit, target), weight = binary(), scale * weights()
    found = measured(BinaryClassification(TargetSpec()), logit, target, weight)
    kept = target != -100
    true, probability, w = target[kept].numpy(), logit[kept, 0].sigmoid().numpy(), weight[kept].numpy()
    said = probability > 0.5
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, said, sample_weight=w), abs=1e-6)
    assert found["f1"] == pytest.approx(sk.f1_score(true, said, sample_weight=w), abs=1e-6)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(true, probability, sample_weight=w), abs=1e-6)
    assert found != pytest.approx(measured(BinaryClassification(TargetSpec()), logit, target), abs=1e-3)


@WEIGHTED
def test_multiclass_ones_are_those_of_scikit_learn(scale: float) -> None:
    (logit, target), weight = multiclass(), scale * weights()
    found = measured(MulticlassClassification(TargetSpec(classes=5)), logit, target, weight)
    kept = (target != -100) & (weight > 0)  # scikit-learn counts a class that has rows of weight 0 only
    true, said, w = target[kept].numpy(), logit[kept].argmax(1).numpy(), weight[kept].numpy()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, said, sample_weight=w), abs=1e-6)
    expected = sk.f1_score(true, said, sample_weight=w, average="macro", zero_division=0)
    assert found["f1"] == pytest.approx(expected, abs=1e-6)


def test_multilabel_ones_are_those_of_scikit_learn() -> None:
    (logit, target), weight = multilabel(), weights()
    found = measured(MultilabelClassification(TargetSpec(shape=(3,), classes=3)), logit, target, weight)
    columns = []
    for label in range(3):
        kept = target[:, label] != -100
        columns.append((target[kept, label].numpy(), logit[kept, label].sigmoid().numpy(), weight[kept].numpy()))
    f1 = [sk.f1_score(true, said > 0.5, sample_weight=w) for true, said, w in columns]
    auroc = [sk.roc_auc_score(true, said, sample_weight=w) for true, said, w in columns]
    assert found["f1"] == pytest.approx(sum(f1) / 3, abs=1e-6)
    assert found["auroc"] == pytest.approx(sum(auroc) / 3, abs=1e-6)
    right = sum(((said > 0.5) == true) @ w for true, said, w in columns)
    assert found["accuracy"] == pytest.approx(right / sum(w.sum() for _, _, w in columns), abs=1e-6)


@pytest.mark.parametrize("size", [None, 3])
def test_regression_is_that_of_scikit_learn(size: int | None) -> None:
    shape = () if size is None else (size,)
    output, target, weight = random(ROWS, size or 1), random(ROWS, *shape, seed=1), weights()
    found = measured(Regression(TargetSpec(shape=shape)), output, target, weight)
    said = output.numpy() if size else output[:, 0].numpy()
    w = weight.numpy()
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(target, said, sample_weight=w), rel=1e-5)
    squared = sk.mean_squared_error(target, said, sample_weight=w)
    assert found["rmse"] == pytest.approx(squared**0.5, rel=1e-5)


def test_dense_ones_weigh_pixels_by_their_row() -> None:
    weight = torch.tensor([0.5, 0.0, 2.0, 1.0])
    logit, target = random(4, 3, 5, 6), torch.randint(0, 3, (4, 5, 6), generator=torch.Generator().manual_seed(3))
    target[2, :3] = -100
    task: Task = SemanticSegmentation(TargetSpec(shape=(5, 6), classes=3))
    metrics = task.metrics("val")
    task.update(metrics, logit, target, weight)
    kept = target != -100
    w = weight[:, None, None].expand(target.shape)[kept].numpy()
    labels = target[kept].numpy(), logit.argmax(1)[kept].numpy()
    expected = sk.jaccard_score(*labels, average="macro", sample_weight=w)
    assert float(metrics["miou"].compute()) == pytest.approx(expected, abs=1e-6)
    accuracy = sk.accuracy_score(*labels, sample_weight=w)
    assert float(metrics["pixel_accuracy"].compute()) == pytest.approx(accuracy, abs=1e-6)

    depth, far = random(4, 1, 5, 6).abs() + 1, random(4, 5, 6, seed=2).abs() + 1
    task = DepthEstimation(TargetSpec(shape=(5, 6)))
    metrics = task.metrics("val")
    task.update(metrics, depth, far, weight)
    w = weight[:, None, None].expand(far.shape).flatten().numpy()
    pair = far.flatten().numpy(), depth.flatten().numpy()
    expected = sk.mean_absolute_error(*pair, sample_weight=w)
    assert float(metrics["abs_error"].compute()) == pytest.approx(expected, rel=1e-5)
    expected = sk.mean_absolute_percentage_error(*pair, sample_weight=w)
    assert float(metrics["rel_error"].compute()) == pytest.approx(expected, rel=1e-5)


CASES = [
    pytest.param(lambda: BinaryClassification(TargetSpec()), binary, id="binary"),
    pytest.param(lambda: MulticlassClassification(TargetSpec(classes=5)), multiclass, id="multiclass"),
    pytest.param(lambda: MultilabelClassification(TargetSpec(shape=(3,), classes=3)), multilabel, id="multilabel"),
    pytest.param(lambda: Regression(TargetSpec()), lambda: (random(ROWS, 1), random(ROWS, seed=1)), id="regression"),
]


@pytest.mark.parametrize(("make", "data"), CASES)
def test_a_weight_is_a_number_of_copies(make: Any, data: Any) -> None:
    """Weights 0, 1, 2 are as rows left out, once and twice: zero-weight rows count nowhere."""
    output, target = data()
    weight = (torch.arange(ROWS) % 3).float()
    rows = torch.arange(ROWS).repeat_interleave(weight.long())
    copies = measured(make(), output[rows], target[rows])
    assert measured(make(), output, target, weight) == pytest.approx(copies, abs=1e-6)


def test_no_row_of_a_weight_above_0_is_no_row() -> None:
    task, metrics = BinaryClassification(TargetSpec()), BinaryClassification(TargetSpec()).metrics("val")
    task.update(metrics, *binary(), torch.zeros(ROWS))
    assert not any(metric.update_called for metric in metrics.values())


def test_an_area_without_both_labels_is_0_with_a_warning() -> None:
    metric = WeightedBinaryAUROC()
    metric.update(torch.tensor([0.2, 0.7]), torch.tensor([1, 1]), torch.ones(2))
    with pytest.warns(UserWarning, match="No negative samples"):
        assert metric.compute() == 0


# --------------------------------------------------------------------------------------------------------- through core
def validated(module: MultiTaskModule, batches: Any, **options: Any) -> dict[str, float]:
    trainer = make_trainer(**options)
    trainer.validate(module, loader_of(batches) if isinstance(batches, list) else batches, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("per_task", [False, True], ids=["for all tasks", "by task"])
def test_weights_in_batches_reach_metrics(per_task: bool) -> None:
    (whole,) = with_gaps(make_batches(1, rows=60), seed=4)
    weight = weights(60).double()
    given: Any = {"number": weight, "kind": 2 * weight} if per_task else weight
    cuts = [slice(0, 17), slice(17, 50), slice(50, 60)]
    batches: list[Any] = [
        {
            "inputs": whole["inputs"][cut],
            "targets": {name: target[cut] for name, target in whole["targets"].items()},
            "weights": {name: w[cut] for name, w in given.items()} if per_task else given[cut],
        }
        for cut in cuts
    ]
    module = make_module()
    found, plain = validated(module, batches), validated(module, [whole])
    outputs = module.double()(whole["inputs"])
    number = whole["targets"]["number"]
    kept = ~number.isnan()
    pair = number[kept].numpy(), outputs["number"][kept, 0].detach().numpy()
    expected = sk.mean_absolute_error(*pair, sample_weight=weight[kept].numpy())
    assert found["val/mae/number"] == pytest.approx(expected, rel=1e-5)
    kind = whole["targets"]["kind"]
    kept = kind != -100
    said = outputs["kind"].argmax(1)[kept].numpy()
    expected = sk.accuracy_score(kind[kept].numpy(), said, sample_weight=weight[kept].numpy())
    assert found["val/accuracy/kind"] == pytest.approx(expected, rel=1e-5)
    assert (found["val/mae/vector"] == pytest.approx(plain["val/mae/vector"])) == per_task


class Weighted(TinyData):
    """The tiny problem with a weight per row."""

    def rows(self, split: Any) -> Any:
        plain: Any = super().rows(split)
        plain._columns["weights"] = weights(len(plain))
        return plain


def test_two_processes_weigh_as_one() -> None:
    values = []
    plans: list[dict[str, Any]] = [{}, {"devices": 2, "strategy": "ddp_fork"}]
    for plan in plans:
        data = Weighted(batch_size=8 // plan.get("devices", 1))
        trainer = make_trainer(precision="32-true", **plan)
        trainer.fit(make_module(), data)
        values.append({name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val/")})
    assert "val/f1/kind" in values[0]
    assert values[1] == pytest.approx(values[0], abs=1e-5)


class HalfLabelled(MultiTaskDataModule):
    """Yes or no, and several of them; of every two rows the second, which another process gets, has no label."""

    def read_schema(self) -> dict[str, Any]:
        return {"input_spec": input_spec_to_dict(TensorSpec((4,)))}

    def declared_tasks(self) -> Any:
        several = TargetSpec(shape=(3,), classes=3)
        return {"one": (TargetSpec(), BinaryClassification), "several": (several, MultilabelClassification)}

    def rows(self, split: Any) -> TensorRows:
        x = random(40, 4, seed=len(split))
        y = (x[:, :3] + random(40, 3, seed=7) > 0).long()
        y[1::2] = -100
        return TensorRows(x, {"one": y[:, 0], "several": y})


def test_a_process_without_a_label_adds_nothing() -> None:
    values = []
    plans: list[dict[str, Any]] = [{}, {"devices": 2, "strategy": "ddp_fork"}]
    for plan in plans:
        data = HalfLabelled(batch_size=8 // plan.get("devices", 1))
        trainer = make_trainer(precision="32-true", **plan)
        trainer.fit(make_module(tasks=data.tasks), data)
        values.append({name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val/")})
    assert values[0]["val/labels/one"] == 20
    assert "val/auroc/several" in values[0]
    assert values[1] == pytest.approx(values[0], abs=1e-5)


# --------------------------------------------------------------------------------------------------------------- errors
def test_a_metric_that_takes_no_weights_is_refused() -> None:
    own = {"error": torchmetrics.MeanAbsoluteError}
    tasks = {**make_tasks(), "number": Regression(TargetSpec(), metrics=own)}
    batches: list[Any] = [{**batch, "weights": torch.ones(8)} for batch in make_batches(1)]
    with pytest.raises(ConfigurationError, match=r"Task 'number': .*an argument `weight`, found \['error'\] without"):
        validated(make_module(tasks=tasks), batches)
    validated(make_module(tasks=tasks), make_batches(1))


def test_a_metric_of_ones_own_may_take_them() -> None:
    class Own(torchmetrics.MeanMetric):
        def update(self, prediction: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> None:  # type: ignore[override]  # fed pairs
            super().update((prediction - target).abs(), weight)

    task = Regression(TargetSpec(), metrics={"own": Own, "error": partial(Own)})
    output, target = random(ROWS, 1), random(ROWS, seed=1)
    expected = measured(Regression(TargetSpec()), output, target, weights())["mae"]
    assert measured(task, output, target, weights()) == pytest.approx({"own": expected, "error": expected})


def test_normals_are_those_of_repeated_rows() -> None:
    task = SurfaceNormals(TargetSpec(shape=(3, 4, 5)))
    output, target, weight = random(3, 3, 4, 5), random(3, 3, 4, 5, seed=1), torch.tensor([2, 0, 3])
    weighted, repeated = task.metrics("val"), task.metrics("val")
    task.update(weighted, output, target, weight.float())
    task.update(repeated, output.repeat_interleave(weight, 0), target.repeat_interleave(weight, 0))
    torch.testing.assert_close(weighted.compute(), repeated.compute())


def test_a_task_of_ones_own_that_knows_no_weights() -> None:
    class Old(Regression):
        def update(self, metrics: Any, output: Tensor, target: Tensor) -> None:  # type: ignore[override]  # of before
            super().update(metrics, output, target)

    module = make_module(tasks={**make_tasks(), "number": Old(TargetSpec())})
    batches: list[Any] = [{**batch, "weights": torch.ones(8)} for batch in make_batches(1)]
    assert "val/mae/number" in validated(module, make_batches(1))
    with pytest.raises(ConfigurationError, match=r"Task 'number': .*an argument `weight` of Old.update, found none"):
        validated(module, batches)
