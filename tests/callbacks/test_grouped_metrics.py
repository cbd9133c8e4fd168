"""Metrics by group against scikit-learn's, group by group; in one process and in two."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import ndcg_score, roc_auc_score
from torch import Tensor

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.callbacks import GroupedMetrics
from mtl_lightning.callbacks.grouped_metrics import as_codes
from mtl_lightning.data.loader import ResumableLoader
from mtl_lightning.data.rows import TensorRows
from mtl_lightning.metrics.grouped import GroupedMetric
from mtl_lightning.tasks import BinaryClassification, Regression
from mtl_lightning.types import ConfigurationError, TargetSpec
from tests.helpers import make_module, make_trainer

ROWS = 301
ALL = ["gauc", "ndcg@3", "recall@2", "precision@2", "mrr"]


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Scores with ties, labels and groups, some of which have one kind of label, or a single row."""
    random = np.random.default_rng(0)
    groups = random.integers(0, 40, ROWS)
    groups[0] = 99
    labels = (random.random(ROWS) < random.random(100)[groups]).astype(float)
    labels[groups == 3], labels[groups == 5] = 0, 1
    return torch.tensor(random.normal(size=ROWS).round(1)), torch.tensor(labels), torch.tensor(groups)


def by_hand(scores: Any, labels: Any, groups: Any, weigh: bool = False) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in ("gauc", "rows", "ndcg", "recall")}
    for group in np.unique(groups):
        score, label = scores[groups == group], labels[groups == group]
        if 0 < label.mean() < 1:
            found["gauc"].append(roc_auc_score(label, score))
            found["rows"].append(len(label))
        if label.sum() and len(label) > 1:
            found["ndcg"].append(ndcg_score([label], [score], k=3))
        elif label.sum():
            found["ndcg"].append(1.0)
    return {
        "gauc": float(np.average(found["gauc"], weights=found["rows"] if weigh else None)),
        "ndcg": float(np.mean(found["ndcg"])),
    }


@pytest.mark.parametrize("weigh", [False, True])
def test_areas_and_gains_are_scikit_learns_group_by_group(weigh: bool) -> None:
    scores, labels, groups = problem()
    expected = by_hand(scores.numpy(), labels.numpy(), groups.numpy(), weigh)
    found = GroupedMetric("gauc", weigh_by_rows=weigh).compute(scores, labels, groups)
    assert float(found) == pytest.approx(expected["gauc"], rel=1e-12)
    found = GroupedMetric("ndcg@3").compute(scores, labels, groups)
    assert float(found) == pytest.approx(expected["ndcg"], rel=1e-6)


def test_recall_by_hand_and_graded_gains() -> None:
    scores, groups = torch.tensor([3.0, 2, 1, 9, 8, 7]), torch.tensor([5, 5, 5, -2, -2, -2])
    labels = torch.tensor([0.0, 1, 1, 1, 1, 0])
    assert float(GroupedMetric("recall@2").compute(scores, labels, groups)) == pytest.approx((0.5 + 1) / 2)
    assert float(GroupedMetric("mrr").compute(scores, labels, groups)) == pytest.approx((0.5 + 1) / 2)
    graded = torch.tensor([1.0, 0, 5, 2, 3, 0])
    expected = np.mean([ndcg_score([graded[:3].tolist()], [[3, 2, 1]]), ndcg_score([graded[3:].tolist()], [[9, 8, 7]])])
    assert float(GroupedMetric("ndcg").compute(scores, graded, groups)) == pytest.approx(expected, rel=1e-6)
    for name in ("gauc", "ndcg@2", "recall@1"):
        assert bool(GroupedMetric(name).compute(scores, torch.zeros(6), groups).isnan())
    with pytest.raises(ConfigurationError, match=r"found 'ndgc@10'. Did you mean 'ndcg'"):
        GroupedMetric("ndgc@10")
    with pytest.raises(ConfigurationError, match="found 'gauc@3'"):
        GroupedMetric("gauc@3")


def test_equal_names_are_one_group_wherever_they_are() -> None:
    texts = as_codes(["a", "b", "a", ""])
    assert texts[0] == texts[2]
    assert len({*texts.tolist()}) == 3
    assert as_codes(np.array(["b"], dtype=object)) == texts[1]
    assert as_codes(np.array([3, -1])).tolist() == as_codes(torch.tensor([[3], [-1]])).tolist() == [3, -1]


# -------------------------------------------------------------------------------------------------------------- in runs
def rows(*, named: bool) -> TensorRows:
    """Rows of users, one after the other in other places; some have no label."""
    _, labels, groups = problem()
    inputs = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    clicked = labels.long()
    clicked[::7] = -100
    stars = torch.where(torch.arange(ROWS) % 5 == 0, torch.nan, inputs[:, 0].round().abs())
    ids: Any = {"user": [f"user {group}" for group in groups.tolist()]} if named else groups
    return TensorRows(inputs, {"clicked": clicked, "stars": stars}, ids=ids)


def module() -> MultiTaskModule:
    tasks = {"clicked": BinaryClassification(TargetSpec(classes=2)), "stars": Regression(TargetSpec())}
    return make_module(tasks=tasks, architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[8]))).double()


def expected_of(network: MultiTaskModule) -> dict[str, float]:
    data = rows(named=False).__getitems__(range(ROWS))
    outputs = network.eval()(data["inputs"])
    known = data["targets"]["clicked"] >= 0
    score, label = outputs["clicked"][known, 0].detach().numpy(), data["targets"]["clicked"][known].numpy()
    return by_hand(score, label, data["ids"][known].numpy())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_validation_logs_them_over_all_processes(processes: int) -> None:
    network = module()
    expected = expected_of(network)
    metrics = GroupedMetrics(by="user", metrics=ALL)
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"} if processes == 2 else {}
    trainer = make_trainer(callbacks=[metrics], **options)
    loaders = [ResumableLoader(rows(named=True), batch_size=16)]
    found = trainer.validate(network, loaders, verbose=False)[0]
    assert found["val/gauc/clicked"] == pytest.approx(expected["gauc"], rel=1e-6)
    assert found["val/ndcg_at_3/clicked"] == pytest.approx(expected["ndcg"], rel=1e-6)
    assert {"val/recall_at_2/clicked", "val/precision_at_2/clicked", "val/mrr/clicked"} <= found.keys()
    assert not any("stars" in tag and "_at_" in tag for tag in found)


def test_a_checkpoint_monitors_them_and_a_number_is_ordered_by_its_prediction(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/ndcg_at_3/stars", mode="max")
    clicked, stars = GroupedMetrics(), GroupedMetrics(metrics=["ndcg@3"], tasks=["stars"])
    loader = ResumableLoader(rows(named=False), batch_size=32)
    network, trainer = module(), make_trainer(callbacks=[clicked, stars, best], max_epochs=2, enable_checkpointing=True)
    trainer.fit(network, loader, loader)
    assert best.best_model_score is not None
    assert 0 < float(best.best_model_score) <= 1
    test = trainer.test(network, loader, verbose=False)[0]
    assert test["test/gauc/clicked"] == pytest.approx(expected_of(network)["gauc"], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["clickd"]}, "found 'clickd'. Did you mean 'clicked'"),
        ({"tasks": ["stars"]}, r"expected `ndcg` alone of the task 'stars', a Regression"),
        ({"by": "usr"}, r"a group by 'usr', found none; `ids` of the batch: \['user'\]"),
    ],
)
def test_what_cannot_be_grouped_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(callbacks=[GroupedMetrics(**options)]).validate(
            module(), ResumableLoader(rows(named=True), batch_size=64), verbose=False
        )
