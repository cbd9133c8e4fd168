"""Delta-m and mean rank against published figures, recomputed by hand, and scipy's ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import rankdata  # type: ignore[import-untyped]  # it ships no types
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.metrics import DeltaM, MeanRank, delta_m, mean_rank, relative_differences
from mtl_lightning.types import ConfigurationError

# F1 of the 40 attributes of CelebA, as the authors of FAMO gave them for single-task networks (github.com/
# Cranial-XIX/FAMO, issue 2) and those of FairGrad for theirs (github.com/OptMN-Lab/FairGrad, issue 1).
CELEBA_ALONE = """
    0.6736886 0.68121034 0.81524944 0.5760289 0.7205613 0.8555076 0.38203922 0.58225113 0.787647 0.8321292 0.5029583
    0.68694085 0.6781237 0.5240381 0.5161666 0.95694304 0.6968786 0.67976356 0.8808315 0.8582131 0.97034 0.93267566
    0.5057539 0.40307626 0.9703734 0.48644206 0.60786104 0.5261031 0.56907415 0.59815097 0.6858371 0.924108 0.5424991
    0.7406311 0.71019936 0.87365365 0.9305602 0.33704284 0.7647628 0.91907"""
CELEBA_FAIRGRAD = """
    0.673481 0.6715126 0.80895394 0.59129095 0.716146 0.84868795 0.5293899 0.6024346 0.79252076 0.8232979 0.49155608
    0.68601424 0.6678187 0.50076723 0.5353463 0.9543982 0.6991702 0.6246493 0.87510586 0.85260683 0.9679586 0.91303086
    0.53938675 0.44097534 0.9698319 0.30875763 0.5560105 0.5475425 0.5299987 0.6050991 0.72113657 0.9100189 0.48792267
    0.6447788 0.7013081 0.8596742 0.92936283 0.40353844 0.7261722 0.9126637"""

# NYUv2, SegNet-MTAN: mIoU, pixel accuracy; absolute and relative error; mean, median, within 11.25, 22.5, 30 degrees.
NYU_TASKS = ["seg"] * 2 + ["depth"] * 2 + ["normal"] * 5
NYU_UP = [True, True, False, False, False, False, True, True, True]
NYU_ALONE = [38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15]
NYU = {  # rows and the Delta-m of the papers: Nash-MTL, FAMO, FairGrad
    "LS": ([39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08], 5.59),
    "MGDA": ([30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36], 1.38),
    "CAGrad": ([39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58], 0.20),
    "Nash-MTL": ([40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15], -4.04),
    "FAMO": ([38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98], -4.10),
    "FairGrad": ([39.74, 66.01, 0.5377, 0.2236, 24.84, 19.60, 29.26, 56.58, 69.16], -4.66),
}


def numbers(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()], dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------------- Delta-m
def test_the_forty_tasks_of_celeba() -> None:
    fairgrad, alone = numbers(CELEBA_FAIRGRAD), numbers(CELEBA_ALONE)
    assert len(fairgrad) == len(alone) == 40
    assert float(delta_m(fairgrad, alone, [True] * 40)) == pytest.approx(0.370, abs=5e-4)
    assert float(delta_m(fairgrad, alone, [True] * 40, sign="gain")) == pytest.approx(-0.370, abs=5e-4)


@pytest.mark.parametrize("method", NYU)
def test_published_rows_of_nyuv2(method: str) -> None:
    row, published = NYU[method]
    found = delta_m(torch.tensor(row), torch.tensor(NYU_ALONE), NYU_UP)
    assert float(found) == pytest.approx(published, abs=0.015)  # the rows are rounded


def test_published_gains_with_one_metric_a_task() -> None:
    """Auto-Lambda's table: mIoU, absolute error, mean distance of one network, higher is better."""
    alone = torch.tensor([43.37, 52.24, 22.40])
    rows = torch.tensor([[44.64, 43.32, 24.48], [47.17, 40.97, 23.68]])
    found = delta_m(rows, alone, [True, False, False], tasks=[*"sdn"], weights="task", sign="gain")
    assert found.tolist() == pytest.approx([3.57, 8.21], abs=0.01)


def test_weights_by_hand() -> None:
    values, alone = torch.tensor([0.9, 3.0, 1.0]), torch.tensor([1.0, 2.0, 2.0])  # 10 % worse, 50 % worse, 50 % better
    ways = [True, False, False]
    assert relative_differences(values, alone, ways).tolist() == pytest.approx([10, 50, -50])
    assert float(delta_m(values, alone, ways)) == pytest.approx(10 / 3)
    by_task = {"tasks": ["a", "b", "a"], "weights": "task"}
    assert float(delta_m(values, alone, ways, **by_task)) == pytest.approx((-20 + 50) / 2)  # type: ignore[arg-type]


def test_a_negative_baseline() -> None:
    """An R2 that goes from -0.5 to -0.25 has become better, by half of the baseline."""
    found = delta_m(torch.tensor([-0.25]), torch.tensor([-0.5]), [True], sign="gain")
    assert float(found) == pytest.approx(50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": torch.tensor([1.0, 0.0])}, r"found 0 at \[1\]: a difference relative to 0 has no meaning"),
        ({"sign": "up"}, "expected a `sign` of 'drop' or 'gain', found 'up'"),
        ({"weights": "even"}, "expected `weights` to be 'metric' or 'task', found 'even'"),
        ({"weights": "task"}, "expected the task of each of 2 metrics"),
        ({"baselines": torch.ones(3)}, r"M baselines .* found \(2,\), \(3,\) and 2"),
        ({"higher_is_better": [True]}, r"found \(2,\), \(2,\) and 1"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    defaults = {"values": torch.ones(2), "baselines": torch.ones(2), "higher_is_better": [True, True]}
    with pytest.raises(ConfigurationError, match=message):
        delta_m(**{**defaults, **options})


# ---------------------------------------------------------------------------------------------------------------- ranks
def test_ranks_are_those_of_scipy() -> None:
    table = torch.tensor([row for row, _ in NYU.values()])
    table[1, 0] = table[0, 0]  # a tie
    signs = torch.tensor([-1.0 if way else 1.0 for way in NYU_UP])
    expected = rankdata((table * signs).numpy(), axis=0).mean(1)
    assert mean_rank(table, NYU_UP).tolist() == pytest.approx(expected.tolist())


def test_ranks_of_nan_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 of them nan"):
        mean_rank(torch.tensor([[1.0, float("nan")]]), [True, True])


# -------------------------------------------------------------------------------------------------------------- classes
def test_delta_m_of_named_metrics() -> None:
    names = [f"{index}/{task}" for index, task in enumerate(NYU_TASKS)]
    ways = dict(zip(names, NYU_UP, strict=True))
    metric = DeltaM(dict(zip(names, NYU_ALONE, strict=True)), ways, weights="task")
    rows = [torch.tensor(NYU[name][0]) for name in ("FAMO", "FairGrad")]
    for row in rows:
        metric.update({**dict(zip(names, row, strict=True)), "other": 1.0})
    parts = [delta_m(row, torch.tensor(NYU_ALONE), NYU_UP, tasks=NYU_TASKS, weights="task") for row in rows]
    torch.testing.assert_close(metric.compute(), torch.stack(parts).mean())
    by_task = metric.by_task()
    assert list(by_task) == ["seg", "depth", "normal"]
    torch.testing.assert_close(torch.stack([*by_task.values()]).mean(), metric.compute())
    assert metric.higher_is_better is False
    assert DeltaM({"a": 1.0}, {"a": True}, sign="gain").higher_is_better is True


def test_they_are_metrics() -> None:
    """In a collection, cloned and reset."""
    collection = MetricCollection({"delta": DeltaM({"a": 2.0}, {"a": False})}).clone("val/")
    collection.update({"a": 3.0})
    assert collection.compute() == {"val/delta": torch.tensor(50.0)}
    collection.reset()
    collection.update({"a": 1.0})
    assert collection.compute() == {"val/delta": torch.tensor(-50.0)}


def test_mean_rank_of_named_methods() -> None:
    metric = MeanRank([*NYU], {str(index): way for index, way in enumerate(NYU_UP)})
    for name, (row, _) in NYU.items():
        for noise in (-0.001, 0.001):  # two seeds
            metric.update(name, {str(index): value + noise for index, value in enumerate(row)})
    expected = mean_rank(torch.tensor([row for row, _ in NYU.values()]), NYU_UP)
    assert [float(rank) for rank in metric.compute().values()] == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: DeltaM({"a": 0.0}, {"a": True}), r"found 0 of \['a'\]"),
        (lambda: DeltaM({"a": 1.0}, {"b": True}), r"`higher_is_better` of the metrics \['a'\], found \['b'\]"),
        (lambda: DeltaM({"a": 1.0}, {"a": True}).update({}), r"found none of \['a'\]"),
        (lambda: MeanRank(["m"], {"a": True}).update("n", {"a": 1.0}), r"a method of \['m'\], found 'n'"),
        (lambda: MeanRank(["m"], {"a": True}).update("m", {}), r"`values` of the metrics \['a'\], found \[\]"),
        (lambda: MeanRank(["m"], {"a": True}).compute(), r"every method, found none of \['m'\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_classes_refuse_other_names(use: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        use()
