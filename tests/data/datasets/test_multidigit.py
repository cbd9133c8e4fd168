from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from mtl_lightning.data import MultiDigit
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import ConfigurationError, TensorSpec

SOURCES = {"train": range(1200), "val": range(1200, 1400), "test": range(1400, 1797)}


def drawn(data: MultiDigit, split: Any) -> tuple[Tensor, dict[str, Tensor]]:
    rows = data.rows(split)
    batch = rows.__getitems__(range(len(rows)))
    return batch["inputs"], batch["targets"]


def digits() -> tuple[Tensor, Tensor]:
    source = load_digits()
    return torch.from_numpy(source.images).float() / 16, torch.from_numpy(source.target)


def fits(source: Tensor, picture: Tensor) -> Tensor:
    """Which source digits (S, 8, 8) could lie under a picture's corner (8, 8): nowhere brighter than it."""
    return (source <= picture + 1e-6).flatten(1).all(1)


def explained(picture: Tensor, source: Tensor, classes: Tensor, jitter: int, left: int, right: int) -> bool:
    """Search, digit by digit and place by place, for a pair of these classes that gives exactly this picture."""
    canvas = picture.shape[-1]
    places = [(a, b) for a in range(jitter + 1) for b in range(jitter + 1)]
    first, second = [], []
    for a, b in places:
        corner = picture[a : a + 8, b : b + 8]
        first += [(a, b, i) for i in (fits(source, corner) & (classes == left)).nonzero()[:, 0].tolist()]
        c, d = canvas - 8 - a, canvas - 8 - b
        corner = picture[c : c + 8, d : d + 8]
        second += [(c, d, i) for i in (fits(source, corner) & (classes == right)).nonzero()[:, 0].tolist()]
    for a, b, i in first:
        for c, d, j in second:
            made = torch.zeros(canvas, canvas)
            made[a : a + 8, b : b + 8] = source[i]
            made[c : c + 8, d : d + 8] = torch.maximum(made[c : c + 8, d : d + 8], source[j])
            if torch.equal(made, picture):
                return True
    return False


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_picture_is_a_pair_from_its_own_split_with_its_labels(split: str) -> None:
    pictures, targets = drawn(MultiDigit(sizes=(30, 30, 30)), split)
    source, classes = digits()
    own = torch.zeros(1797, dtype=torch.bool)
    own[list(SOURCES[split])] = True
    for picture, left, right in zip(pictures[:, 0], targets["left"].tolist(), targets["right"].tolist(), strict=True):
        assert explained(picture, source[own], classes[own], 1, left, right)
        assert not explained(picture, source[~own], classes[~own], 1, left, right)


def test_digits_stay_within_the_jitter_and_reach_all_of_it() -> None:
    pictures, _ = drawn(MultiDigit(sizes=(4000, 1, 1), canvas=24, jitter=3), "train")
    lit = (pictures[:, 0] > 0).float()
    assert lit[:, :11, :11].sum() + lit[:, 13:, 13:].sum() == lit.sum()  # 8 + 3 pixels from either corner
    ever = lit.amax(0)
    for edge in (0, 10, 13, 23):
        assert ever[edge].any()
        assert ever[:, edge].any()


def test_without_jitter_the_picture_is_two_digits_in_its_corners() -> None:
    pictures, targets = drawn(MultiDigit(sizes=(20, 1, 1), canvas=16, jitter=0), "train")
    source, classes = digits()
    for picture, left, right in zip(pictures[:, 0], targets["left"], targets["right"], strict=True):
        for corner, label in ((picture[:8, :8], left), (picture[8:, 8:], right)):
            same = (source[:1200] == corner).flatten(1).all(1).nonzero()[:, 0]
            assert {*classes[same].tolist()} == {int(label)}
        assert picture[:8, 8:].sum() + picture[8:, :8].sum() == 0


def test_left_and_right_are_drawn_independently_and_evenly() -> None:
    _, targets = drawn(MultiDigit(), "train")
    table = torch.zeros(10, 10)
    table.index_put_((targets["left"], targets["right"]), torch.ones(10_000), accumulate=True)
    share = table / 10_000
    _, classes = digits()
    expected = torch.bincount(classes[:1200], minlength=10) / 1200
    assert (share.sum(0) - expected).abs().max() < 0.015
    assert (share.sum(1) - expected).abs().max() < 0.015
    assert (share - expected[:, None] * expected).abs().max() < 0.006


def test_sizes_dtypes_and_ranges() -> None:
    data = MultiDigit()
    assert data.input_spec == TensorSpec((1, 12, 12))
    for split, size in (("train", 10_000), ("val", 2_000), ("test", 4_000)):
        pictures, targets = drawn(data, split)
        assert pictures.shape == (size, 1, 12, 12)
        assert pictures.dtype == torch.float32
        assert (float(pictures.min()), float(pictures.max())) == (0, 1)
        assert {name: target.dtype for name, target in targets.items()} == dict.fromkeys(["left", "right"], torch.int64)


def test_the_sum_is_a_standardised_regression() -> None:
    data = MultiDigit(sum=True)
    _, targets = drawn(data, "train")
    assert torch.equal(targets["sum"], (targets["left"] + targets["right"]).float())
    task = data.tasks["sum"]
    assert isinstance(task, Regression)
    assert task.spec.units == "digits sum"
    assert task.target_scale == pytest.approx(float(targets["sum"].std()), rel=1e-3)


def test_labels_are_dropped_in_training_only_and_independently() -> None:
    data = MultiDigit(sum=True, missing=0.3)
    _, targets = drawn(data, "train")
    gone = torch.stack([targets["left"] == -100, targets["right"] == -100, targets["sum"].isnan()]).double()
    assert (gone.mean(1) - 0.3).abs().max() < 0.02
    assert (torch.corrcoef(gone) - torch.eye(3)).abs().max() < 0.05
    assert all(task.fitted for task in data.tasks.values())
    for name, target in drawn(data, "test")[1].items():
        assert int(data.tasks[name].count(target)) == 4000
    whole = drawn(MultiDigit(sum=True), "train")[1]
    assert torch.equal(targets["left"][gone[0] == 0], whole["left"][gone[0] == 0])


def test_dropped_labels_take_the_tasks_own_missing_label() -> None:
    data = MultiDigit(missing=0.5, tasks={"left": partial(MulticlassClassification, ignore_index=255), "right": None})
    target = next(iter(data.train_dataloader()))["targets"]["left"]
    assert {*target.tolist()} == {*range(10), 255}
    data.tasks["left"].check(target)


def test_the_seed_decides() -> None:
    first, again, other = (drawn(MultiDigit(seed=seed), "val")[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_making_the_pictures_is_quick() -> None:
    drawn(MultiDigit(), "val")  # scikit-learn is imported once
    start = time.perf_counter()
    drawn(MultiDigit(), "train")
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"canvas": 8}, r"canvas >= 8 \+ jitter, found canvas=8 and jitter=1"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MultiDigit(**arguments)


def test_without_scikit_learn_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mtl-lightning\[examples\]'"):
        MultiDigit().train_dataloader()
