"""What every exported task promises; a new one is tested without editing this file.

Each class is tried with every spec it accepts, and with every kind of target that its ``check`` accepts.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torchmetrics import MeanMetric

from mtl_lightning.describe import describe
from mtl_lightning.tasks import Task
from mtl_lightning.types import ConfigurationError, TargetError
from tests.contracts.task_cases import (
    CLASSES,
    KINDS,
    ROWS,
    SPECS,
    Case,
    every_case,
    every_case_that_can_miss,
    refuses,
    without_labels,
)


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, of, retain_graph=True)
    return found


def leading_sizes(prediction: Tensor | dict[str, Tensor]) -> set[int]:
    return {len(p) for p in (prediction.values() if isinstance(prediction, dict) else [prediction])}


# ------------------------------------------------------------------------------------------------------ count and loss
@every_case
def test_counts_every_element_of_a_labelled_target(case: Case) -> None:
    task, target = case.task(), case.target()
    count = task.count(target)
    assert count.shape == ()
    assert count.dtype == torch.float32
    assert count == task.labelled(target).numel() > 0


@every_case_that_can_miss
def test_without_a_label_the_count_is_0_and_the_loss_0_but_connected(case: Case) -> None:
    task, output = case.task(), case.output()
    target = without_labels(case.target(), slice(None))
    task.check(target)
    assert task.count(target) == 0
    loss = task.loss(output, target)
    assert loss == 0
    assert loss.requires_grad
    assert not gradient(loss, output).count_nonzero()


@every_case_that_can_miss
def test_unlabelled_rows_do_not_matter(case: Case) -> None:
    task, output = case.task(), case.output()
    target = without_labels(case.target(), [1, 4, 5])
    kept = [0, 2, 3, 6, 7]
    loss = task.loss(output, target)
    torch.testing.assert_close(loss, task.loss(output[kept], target[kept]))
    assert task.count(target) == task.count(target[kept])
    found = gradient(loss, output)
    assert found.isfinite().all()
    assert not found[[1, 4, 5]].count_nonzero()
    assert found[kept].flatten(1).any(1).all()


@every_case
def test_loss_of_the_union_is_the_sum_of_the_losses(case: Case) -> None:
    task, output, target = case.task(), case.output(), case.target()
    parts = sum(task.loss(output[rows], target[rows]) for rows in (slice(0, 3), slice(3, 4), slice(4, ROWS)))
    torch.testing.assert_close(task.loss(output, target), parts)


@every_case_that_can_miss
def test_kin_tasks_count_and_lose_together_as_each_by_itself(case: Case) -> None:
    tasks = [case.task(), case.task()]
    if tasks[0].batchable != tasks[1].batchable:
        assert tasks[0].batchable == id(tasks[0])
        return
    whole = [case.target(), case.target()]
    targets = [without_labels(target, [2, 5]) for target in whole] if case.can_miss else whole
    outputs = [case.output(), case.output()]
    counts = torch.stack([task.count(target) for task, target in zip(tasks, targets, strict=True)])
    losses = [task.loss(*pair) for task, *pair in zip(tasks, outputs, targets, strict=True)]
    assert torch.equal(tasks[0].count_together(targets), counts)
    together = tasks[0].loss_together(outputs, targets)
    torch.testing.assert_close(together, torch.stack(losses))
    expected = torch.autograd.grad(losses[0] + 2 * losses[1], outputs)
    torch.testing.assert_close(torch.autograd.grad(together[0] + 2 * together[1], outputs), expected)


@every_case_that_can_miss
def test_weights_multiply_rows(case: Case) -> None:
    task, output, target = case.task(), case.output(), without_labels(case.target(), [2])
    weight = torch.rand(ROWS)
    rows = [slice(row, row + 1) for row in range(ROWS)]
    losses = torch.stack([task.loss(output[row], target[row]) for row in rows])
    counts = torch.stack([task.count(target[row]) for row in rows])
    torch.testing.assert_close(task.loss(output, target, weight), (weight * losses).sum())
    torch.testing.assert_close(task.count(target, weight), (weight * counts).sum())


@every_case
def test_weights_of_another_shape_are_refused(case: Case) -> None:
    with pytest.raises(TargetError, match=rf"weights of shape \({ROWS},\), found \(3,\)"):
        case.task().loss(case.output(), case.target(), torch.ones(3))


@every_case_that_can_miss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_give_a_float32_loss(case: Case, dtype: torch.dtype) -> None:
    task, target = case.task(), without_labels(case.target(), [1])
    output = case.output().detach().to(dtype).requires_grad_()
    loss = task.loss(output, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, task.loss(output.float(), target))
    assert gradient(loss, output).isfinite().all()


@every_case
def test_float64_outputs_give_a_float64_loss(case: Case) -> None:
    task, output, target = case.task().double(), case.output(dtype=torch.float64), case.target()
    loss = task.loss(output, target)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss.float(), case.task().loss(output.float(), target))


@every_case
def test_large_outputs_stay_finite(case: Case) -> None:
    task, target = case.task(), case.target()
    output = (1e4 * case.output().detach()).requires_grad_()
    loss = task.loss(output, target)
    assert loss.isfinite()
    assert gradient(loss, output).isfinite().all()


@every_case
def test_training_waits_for_nothing(case: Case) -> None:
    """On the meta device any look at a value, which on a GPU would wait for it, is an error."""
    task, target = case.task().to("meta"), case.target().to("meta")
    output = case.output().detach().to("meta").requires_grad_()
    weight = torch.ones(ROWS, device="meta")
    assert task.count(target, weight).shape == task.invalid(target).shape == ()
    assert gradient(task.loss(output, target, weight), output).shape == output.shape
    assert task.estimate(output).shape[1] == task.estimate_size
    task.predict(output)


# ------------------------------------------------------------------------------------------------------ invalid targets
@every_case_that_can_miss
def test_an_invalid_value_makes_the_count_nan_and_is_shown(case: Case) -> None:
    task, target = case.task(), case.target()
    target[3].fill_(float("inf") if target.is_floating_point() else -7777)
    assert task.invalid(target)
    assert task.count(target).isnan()
    assert task.count(target, torch.ones(ROWS)).isnan()
    value = "inf" if target.is_floating_point() else "-7777"
    with pytest.raises(TargetError, match=rf"{case.cls.__name__}: expected .*, found {value}(\.0)? in row 3"):
        task.check(target)


@every_case
def test_a_valid_target_is_valid(case: Case) -> None:
    task, target = case.task(), case.target()
    task.check(target)
    assert not task.invalid(target)


@pytest.mark.parametrize("shape", [(), (ROWS, 9), (ROWS, 3, 2, 2)])
@every_case
def test_another_shape_is_refused_everywhere(case: Case, shape: tuple[int, ...]) -> None:
    task, target = case.task(), KINDS[case.kind](shape, 2)
    for look in (task.check, task.count, task.labelled, lambda wrong: task.loss(case.output(), wrong)):
        with pytest.raises(TargetError, match=rf"{case.cls.__name__}: expected a target of shape .*, found \("):
            look(target)


@every_case
def test_a_complex_target_is_refused_everywhere(case: Case) -> None:
    task, target = case.task(), case.target().to(torch.complex64)
    for look in (task.check, task.count, task.labelled, lambda wrong: task.loss(case.output(), wrong)):
        with pytest.raises(TargetError, match=r"expected .*, found torch.complex64"):
            look(target)


@every_case
def test_another_number_of_outputs_is_refused(case: Case) -> None:
    task, target = case.task(), case.target()
    output = torch.cat([case.output(), case.output()], dim=1)
    for use in (lambda wrong: task.loss(wrong, target), task.predict, task.estimate):
        with pytest.raises(ConfigurationError, match=rf"expected outputs .*\(B, {task.output_size}"):
            use(output)


@every_case
def test_another_number_of_rows_is_refused(case: Case) -> None:
    with pytest.raises(TargetError, match=f"expected {ROWS} targets, found 1"):
        case.task().loss(case.output(), case.target(1))


# ------------------------------------------------------------------------------------------------ the trivial predictor
@every_case
@pytest.mark.parametrize("fitted", [False, True])
def test_no_constant_nearby_has_less_loss_than_the_trivial_predictor(case: Case, fitted: bool) -> None:
    task, target, weight = case.task(), case.target(200), torch.rand(200)
    if case.can_miss:
        target = without_labels(target, torch.rand(200) < 0.3)
    if fitted:
        task.fit_target(target)
    rows = task.picked(target)
    labelled = task.has_label(rows)
    weights = weight.repeat_interleave(len(rows) // 200)
    best = task.trivial_output(task.trivial_prediction(rows[labelled], weights[labelled]).cpu())
    assert best.shape == (task.output_size,)
    assert best.isfinite().all()

    def loss(constant: Tensor) -> Tensor:
        shape = (-1, *(1 for _ in case.output(1).shape[2:]))
        return task.loss(torch.zeros_like(case.output(200)) + constant.reshape(shape).float(), target, weight)

    least = loss(best)
    for index in range(task.output_size):
        for step in (-0.2, 0.2):
            moved = best.clone()
            moved[index] += step
            assert loss(moved) > 0.995 * least  # half a label is added for what was never seen


@every_case
def test_choosing_rows_waits_for_nothing(case: Case) -> None:
    task, rows = case.task().to("meta"), case.task().picked(case.target())
    assert task.picked(case.target().to("meta")).shape == rows.shape
    assert task.has_label(rows.to("meta")).shape == (len(rows),)
    assert len(rows) % ROWS == 0


# ------------------------------------------------------------------------------------------- predictions and estimates
@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@every_case
def test_predictions_and_estimates_keep_rows(case: Case, rows: int, dtype: torch.dtype) -> None:
    task, output = case.task(), case.output(rows, dtype=dtype)
    estimate = task.estimate(output)
    assert estimate.shape == (rows, task.estimate_size, *output.shape[2:])
    assert estimate.dtype == dtype  # a half-precision network goes on in half precision
    prediction = task.predict(output)
    assert leading_sizes(prediction) == {rows}
    values = prediction.values() if isinstance(prediction, dict) else [prediction]
    assert all(value.isfinite().all() for value in values)
    assert all(value.dtype in (torch.float32, torch.float64, torch.int64) for value in values)


@every_case
def test_the_gradient_of_the_estimate_reaches_the_output(case: Case) -> None:
    output = case.output()
    assert gradient(case.task().estimate(output).square().sum(), output).count_nonzero()


# -------------------------------------------------------------------------------------------------------------- metrics
@pytest.mark.filterwarnings("ignore:No (positive|negative) samples:UserWarning")
@every_case_that_can_miss
def test_metrics_of_the_labelled_rows(case: Case) -> None:
    task, output = case.task(), case.output(40)
    target = without_labels(case.target(40), slice(0, 40, 3))
    kept = [row for row in range(40) if row % 3]
    masked, subset = task.metrics("val"), task.metrics("val")
    task.update(masked, output, target)
    task.update(masked, output[:4], without_labels(target[:4], slice(None)))
    task.update(subset, output[kept], target[kept])
    found = masked.compute()
    assert found
    torch.testing.assert_close(found, subset.compute())
    assert all(value.isfinite() for value in found.values())


@every_case
def test_metrics_keep_no_graph(case: Case) -> None:
    task, metrics = case.task(), case.task().metrics("train")
    task.update(metrics, case.output(), case.target())
    for metric in metrics.values():
        for state in metric.metric_state.values():
            assert not any(part.requires_grad for part in (state if isinstance(state, list) else [state]))


@every_case_that_can_miss
def test_metrics_ignore_a_batch_without_labels(case: Case) -> None:
    task, metrics = case.task(), case.task().metrics("val")
    task.update(metrics, case.output(), without_labels(case.target(), slice(None)))
    assert not any(metric.update_called for metric in metrics.values())


@every_case
def test_metrics_are_fresh_and_say_which_way_is_better(case: Case) -> None:
    task = case.task()
    first, second = task.metrics("val"), task.metrics("val")
    task.update(first, case.output(), case.target())
    assert all(metric.update_called for metric in first.values())
    assert not any(metric.update_called for metric in second.values())
    assert all(isinstance(metric.higher_is_better, bool) for metric in first.values())


@every_case
def test_metrics_can_be_replaced(case: Case) -> None:
    metrics = case.task(metrics={"own": MeanMetric}).metrics("test")
    assert [(name, type(metric)) for name, metric in metrics.items()] == [("own", MeanMetric)]


# ---------------------------------------------------------------------------------------------- state and description
@every_case
def test_plain_data_rebuilds_it(case: Case) -> None:
    task, output, target = case.task(), case.output(), case.target()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--t", type=Task)
    rebuilt = parser.instantiate(parser.parse_object({"t": describe(task)})).t
    assert type(rebuilt) is case.cls
    rebuilt.load_state_dict(task.state_dict())
    assert (rebuilt.spec, rebuilt.likelihood, rebuilt.output_size) == (task.spec, task.likelihood, task.output_size)
    assert torch.equal(rebuilt.loss(output, target), task.loss(output, target))
    assert list(rebuilt.metrics("val")) == list(task.metrics("val"))
    again = parser.instantiate(parser.parse_object({"t": describe(rebuilt)})).t
    assert describe(again) == describe(rebuilt)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["copy", "pickle"]
)
@every_case
def test_copies_are_equal(case: Case, clone: Any) -> None:
    task, output, target = case.task(), case.output(), case.target()
    task.fit_target(case.target(50))
    other = clone(task)
    assert torch.equal(other.loss(output, target), task.loss(output, target))
    assert describe(other) == describe(task)


@every_case
def test_fitting_leaves_nothing_to_fit_and_survives_a_reload(case: Case) -> None:
    task, fresh, output = case.task(), case.task(), case.output()
    task.fit_target(case.target(50))
    assert task.fitted
    assert task.target_scale is None or task.target_scale > 0
    fresh.load_state_dict(task.state_dict())
    assert fresh.fitted
    torch.testing.assert_close(fresh.predict(output), task.predict(output), rtol=0, atol=0)


@every_case
def test_likelihood_is_usable(case: Case) -> None:
    likelihood = case.task().likelihood
    assert likelihood.a > 0
    assert likelihood.b > 0
    assert likelihood.scale in ("log_var", "log_scale")


@pytest.mark.parametrize("cls", CLASSES, ids=[cls.__name__ for cls in CLASSES])
def test_a_spec_that_does_not_fit_is_refused_in_words(cls: Any) -> None:
    refused = [spec for spec in SPECS.values() if refuses(cls, spec)]
    assert refused
    for spec in refused:
        with pytest.raises(ConfigurationError, match=rf"{cls.__name__}: expected .*TargetSpec.*, found"):
            cls(spec)
