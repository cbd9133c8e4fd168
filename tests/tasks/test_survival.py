"""Survival: the likelihood by hand, cut points, curves and times, censoring in metrics, and recovery of hazards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid  # type: ignore[import-untyped]  # it ships no types
from scipy.special import expit  # type: ignore[import-untyped]  # it ships no types
from torch import Tensor

from mtl_lightning.tasks import Survival
from mtl_lightning.tasks.survival_metrics import Concordance, IntegratedBrier
from mtl_lightning.types import Batch, ConfigurationError, TargetError, TargetSpec
from tests.helpers import INPUTS, fit, loader_of, make_module, make_trainer
from tests.tasks.recovery import Floats, assert_recovered, fitted_head, most_likely

HAZARDS = [0.1, 0.25, 0.5]
LOGITS = torch.tensor([HAZARDS], dtype=torch.float64).logit()


def log_of(*survived: float, event: float = 1.0) -> float:
    return math.log(event) + sum(math.log(1 - hazard) for hazard in survived)


@pytest.mark.parametrize(
    ("time", "event", "expected"),
    [
        (0.0, 1, log_of(event=0.1)),
        (2.0, 1, log_of(event=0.1)),  # a cut point ends its interval
        (2.1, 1, log_of(0.1, event=0.25)),
        (6.0, 1, log_of(0.1, 0.25, event=0.5)),
        (6.5, 1, log_of(*HAZARDS)),  # later than all
        (0.9, 0, 0.0),  # seen for less than half of the first interval
        (1.0, 0, log_of(0.1)),
        (2.0, 0, log_of(0.1)),
        (3.5, 0, log_of(0.1, 0.25)),
        (4.9, 0, log_of(0.1, 0.25)),
        (6.0, 0, log_of(*HAZARDS)),
        (99.0, 0, log_of(*HAZARDS)),
        (torch.nan, 1, 0.0),
        (3.0, torch.nan, 0.0),
    ],
)
def test_likelihood_by_hand(time: float, event: float, expected: float) -> None:
    task = Survival(cuts=[2.0, 4.0, 6.0])
    loss = task.loss(LOGITS, torch.tensor([[time, event]], dtype=torch.float64))
    assert loss.item() == pytest.approx(-expected, abs=1e-12)


def test_curves_and_times() -> None:
    task = Survival(cuts=[2.0, 4.0, 6.0], units="days").double()
    found = task.predict(torch.cat([LOGITS, torch.full((1, 3), -40.0), torch.full((1, 3), 40.0)]))
    curve = [0.9, 0.675, 0.3375]
    torch.testing.assert_close(found["survival"][0], torch.tensor(curve, dtype=torch.float64))
    assert found["expected"][0].item() == pytest.approx((1 + 2 * 0.9 + 2 * 0.675 + 0.3375) / 2 * 2)
    assert found["value"].tolist() == pytest.approx([4 + 2 * (0.675 - 0.5) / 0.3375, 6.0, 1.0])
    assert found["expected"][1:].tolist() == pytest.approx([6.0, 1.0])
    fields = {"value": [], "expected": [], "survival": ["2", "4", "6"]}
    assert task.decoding() == {"form": "fields", "fields": fields, "units": "days"}
    assert Survival(cuts=[1000001.0, 1000002.5]).decoding()["fields"]["survival"] == ["1000001", "1000002"]
    torch.testing.assert_close(task.estimate(LOGITS), found["survival"][:1])


def test_cut_points_are_quantiles_of_the_events() -> None:
    task = Survival(intervals=4)
    events = torch.stack([torch.arange(1.0, 101.0), torch.ones(100)], dim=1)
    others = torch.tensor([[1000.0, 0.0], [torch.nan, 1.0], [0.5, 0.0]]).repeat(50, 1)
    task.fit_target(torch.cat([events, others]))
    assert task.cuts.tolist() == [25.0, 50.0, 75.0, 100.0]
    tied = Survival(intervals=3)
    tied.fit_target(torch.tensor([[1.0, 1.0]] * 50 + [[2.0, 1.0], [3.0, 1.0]]))
    assert tied.cuts.tolist() == [1.0, 2.0, 3.0]
    late = Survival(intervals=3)
    late.fit_target(torch.tensor([[1.0, 1.0], [2.0, 1.0]] + [[3.0, 1.0]] * 50))
    assert late.cuts.tolist() == [1.0, 2.0, 3.0]


def test_what_cannot_be_cut_is_said() -> None:
    with pytest.raises(TargetError, match=r"expected events at 10 different times above 0 at least.*found 1"):
        Survival().fit_target(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
    with pytest.raises(ConfigurationError, match=r"expected cut points, found none. Give `cuts`, call `fit_target`"):
        Survival().predict(torch.zeros(1, 10))
    for cuts in ([], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0]):
        with pytest.raises(ConfigurationError, match=r"expected `cuts` to be times above 0, ascending"):
            Survival(cuts=cuts)
    with pytest.raises(ConfigurationError, match=r"expected the shape \(2,\) with the names .* in the TargetSpec"):
        Survival(TargetSpec(shape=(2,)))
    task = Survival(cuts=[1.0])
    for pair, shown in (([-1.0, 1.0], r"found -1.0 in row 0, column 0"), ([1.0, 0.5], "found 0.5 in row 0, column 1")):
        with pytest.raises(TargetError, match=shown):
            task.check(torch.tensor([pair]))
        assert task.count(torch.tensor([pair])).isnan()


def test_cut_points_are_kept_as_precise_as_they_are() -> None:
    task = Survival(intervals=2)
    times = torch.tensor([0.1, 0.1 + 1e-12, 0.2, 0.3], dtype=torch.float64)
    task.fit_target(torch.stack([times, torch.ones(4, dtype=torch.float64)], dim=1))
    cuts = task.cuts.clone()
    assert task.half().cuts.tolist() == cuts.tolist()
    fresh = Survival(intervals=2)
    fresh.load_state_dict(task.state_dict())
    assert fresh.fitted
    assert fresh.cuts.tolist() == cuts.tolist()


def test_the_trivial_predictor_gives_the_share_of_those_at_risk() -> None:
    task = Survival(cuts=[1.0, 2.0, 3.0])
    rows = torch.tensor([[1.0, 1.0]] * 2 + [[1.0, 0.0]] * 2 + [[2.0, 1.0]] * 3 + [[2.0, 0.0]] * 3)
    hazards = task.trivial_output(task.trivial_prediction(rows, torch.ones(10))).sigmoid()
    torch.testing.assert_close(hazards, torch.tensor([0.2, 0.5, 0.5], dtype=torch.float64))  # none at risk in the last
    weights = torch.ones(10)
    weights[:2] = 3.0
    hazards = task.trivial_output(task.trivial_prediction(rows, weights)).sigmoid()
    assert hazards[0].item() == pytest.approx(6 / 14)


# -------------------------------------------------------------------------------------------------------------- metrics
def some_rows(rows: int, seed: int = 0, ties: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Curves (N, 4), targets (N, 2) of which some times are equal, and weights (N,)."""
    random = torch.Generator().manual_seed(seed)
    curve = torch.rand(rows, 4, generator=random, dtype=torch.float64).cumprod(1)
    curve[:: rows // 6] = curve[0]
    time = 5 * torch.rand(rows, generator=random, dtype=torch.float64)
    event = torch.rand(rows, generator=random) < 0.6
    return curve, torch.stack([time.mul(4).ceil() / 4 if ties else time, event.double()], 1), torch.rand(rows).double()


def harrell(score: Floats, time: Floats, event: NDArray[np.bool_], weight: Floats) -> float:
    """Over all pairs."""
    right = every = 0.0
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if time[j] > time[i] or (time[j] == time[i] and not event[j]):
                size = weight[i] * weight[j]
                every += size
                right += size * (1.0 if score[j] > score[i] else 0.5 if score[j] == score[i] else 0.0)
    return right / every


def graf(curve: Floats, time: Floats, event: NDArray[np.bool_], weight: Floats, cuts: Floats) -> float:
    """By Kaplan-Meier with loops over all rows."""

    def uncensored(until: float, included: bool) -> float:
        product = 1.0
        for moment in np.unique(time):
            if moment < until or (included and moment == until):
                lost = weight[(time == moment) & ~event].sum()
                at_risk = weight[(time > moment) | ((time == moment) & ~event)].sum()
                product *= 1 - lost / at_risk if lost else 1.0
        return product

    scores = [0.0]
    for k, cut in enumerate(cuts):
        total = 0.0
        for i in range(len(time)):
            if time[i] <= cut and event[i]:
                total += weight[i] * curve[i, k] ** 2 / uncensored(time[i], included=False)
            elif time[i] > cut:
                total += weight[i] * (1 - curve[i, k]) ** 2 / uncensored(cut, included=True)
        scores.append(total / weight.sum())
    return float(trapezoid(scores, [0.0, *cuts]) / cuts[-1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_agree_with_loops_over_all_pairs(ties: bool, weighted: bool) -> None:
    curve, target, weight = some_rows(90, ties=ties)
    cuts = (0.5, 1.75, 3.0, 4.25)
    metrics = Survival(cuts=list(cuts)).metrics("val").double()
    for rows in (slice(0, 31), slice(31, 90)):
        given = {"weight": weight[rows]} if weighted else {}
        metrics.update(curve[rows], target[rows], **given)
    found = metrics.compute()
    ends = np.array([0.0, *cuts])
    values = np.hstack([np.ones((90, 1)), curve.numpy()])
    expected = ((values[:, 1:] + values[:, :-1]) / 2 * np.diff(ends)).sum(1)
    time, event = target[:, 0].numpy(), target[:, 1].numpy() == 1
    sizes = weight.numpy() if weighted else np.ones(90)
    assert found["concordance"].item() == pytest.approx(harrell(expected.round(12), time, event, sizes), rel=1e-6)
    assert found["brier"].item() == pytest.approx(graf(curve.numpy(), time, event, sizes, ends[1:]), rel=1e-6)


def test_perfect_constant_and_reversed_forecasts() -> None:
    time = torch.tensor([1.0, 2.0, 3.0, 4.0])
    target = torch.stack([time, torch.tensor([1.0, 1.0, 0.0, 1.0])], dim=1)
    cuts = (1.0, 2.0, 3.0, 4.0)
    perfect = (time[:, None] > torch.tensor(cuts)).float()
    constant = torch.full((4, 4), 0.5)
    for curve, index, error in ((perfect, 1.0, 0.0), (constant, 0.5, 0.25 * 3.5 / 4), (perfect.flip(0), 0.0, None)):
        concordance, score = Concordance(cuts), IntegratedBrier(cuts)
        concordance.update(curve, target)
        score.update(curve, target)
        assert concordance.compute().item() == pytest.approx(index)
        assert error is None or score.compute().item() == pytest.approx(error, abs=1e-7)
    nobody = Concordance(cuts)
    nobody.update(perfect[:1], target[:1])
    with pytest.warns(UserWarning, match="No pair of rows"):
        assert nobody.compute() == 0


def test_concordance_of_many_rows_is_quick() -> None:
    random = torch.Generator().manual_seed(0)
    metric = Concordance((1.0, 2.0))
    curve = torch.rand(50_000, 2, generator=random)
    expected = 0.5 + curve[:, 0] + curve[:, 1] / 2
    time = torch.where(torch.rand(50_000, generator=random) < 0.5, expected, torch.rand(50_000, generator=random))
    metric.update(curve, torch.stack([time, (curve[:, 0] > 0.3).float()], dim=1))
    assert 0.48 < metric.compute() < 0.52  # 0.513 of 3,000 rows, by all pairs; of these there would be 2.5e9
    metric.reset()
    metric.update(curve, torch.stack([expected, (curve[:, 0] > 0.3).float()], dim=1))
    assert metric.compute().item() == pytest.approx(1.0, abs=1e-6)


def test_cut_points_later_than_all_rows_are_left_out() -> None:
    curve, target, _ = some_rows(60)
    few, many = IntegratedBrier((1.0, 4.0)), IntegratedBrier((1.0, 4.0, 90.0, 100.0))
    few.update(curve[:, :2], target)
    many.update(curve, target)
    torch.testing.assert_close(few.compute(), many.compute())


# ------------------------------------------------------------------------------------------------------------- recovery
CUTS = [1.0, 2.0, 3.0, 4.0, 5.0]
INTERCEPTS, SLOPE = np.array([-3.0, -2.0, -1.5, -1.0, -0.5]), 0.8


def lifetimes(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (N, 1) and targets of which a good third is censored, all at cut points."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, 1))
    hazards = expit(INTERCEPTS + SLOPE * x)
    happens = random.random((rows, 5)) < hazards
    time = np.where(happens.any(1), happens.argmax(1) + 1, 6)
    censored = random.integers(1, 9, rows)
    seen = np.minimum(np.minimum(time, censored), 5)
    event = (time <= censored) & (time <= 5)
    return torch.from_numpy(x), torch.from_numpy(np.stack([seen, event], 1).astype(float))


def recover(rows: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return intercepts and slopes that are found, true, found independently, and their standard errors."""
    inputs, target = lifetimes(rows)
    task: Any = Survival(cuts=CUTS)
    head = fitted_head(task, inputs, target)
    x, (time, event) = inputs[:, 0].numpy(), target.numpy().T
    at_risk = time[:, None] >= np.arange(1, 6)  # a table with a row per row and interval that it was in
    happened = at_risk & (time[:, None] == np.arange(1, 6)) & (event[:, None] == 1)

    def negative(parameters: Floats) -> float:
        logits = parameters[:5] + x[:, None] * parameters[5:]
        return float((np.logaddexp(0, logits) - happened * logits)[at_risk].sum())

    theirs, errors = most_likely(negative, np.zeros(10))
    found = torch.cat([head.bias, head.weight[:, 0]]).detach().numpy()
    return found, np.concatenate([INTERCEPTS, np.full(5, SLOPE)]), theirs, errors


def test_hazards_are_recovered() -> None:
    assert_recovered(*recover(3000))


@pytest.mark.slow
def test_hazards_are_recovered_from_many_rows() -> None:
    assert_recovered(*recover(50_000))


def test_a_checkpoint_is_tested_by_a_task_that_knows_no_cut_points_yet(tmp_path: Path) -> None:
    """The command line makes tasks before it loads the weights."""
    random = torch.Generator().manual_seed(0)
    target = torch.stack([torch.rand(64, generator=random).double() * 9 + 1, torch.ones(64).double()], dim=1)
    batches: list[Batch] = [{"inputs": torch.randn(64, INPUTS).double(), "targets": {"churn": target}}]
    task = Survival(intervals=4)
    task.fit_target(target)
    trainer = fit(make_module(tasks={"churn": task}), batches)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    (expected,) = trainer.test(trainer.lightning_module, loader_of(batches), verbose=False)
    fresh = make_module(tasks={"churn": Survival(intervals=4)}, seed=1)
    (found,) = make_trainer().test(fresh, loader_of(batches), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert found["test/concordance/churn"] == expected["test/concordance/churn"]
    fit(make_module(tasks={"churn": Survival(intervals=4)}), batches, ckpt_path=str(tmp_path / "a.ckpt"), max_epochs=2)
