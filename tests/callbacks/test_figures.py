"""Figures of a validation in real event files: their numbers are counted again from predictions made afterwards."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch import Tensor

from mtl_lightning.callbacks import ConfusionMatrices, DensePanels, PRCurves, PredictedAgainstTrue, drawing
from mtl_lightning.tasks import (
    BinaryClassification,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
)
from mtl_lightning.types import TargetSpec
from tests.callbacks.pixels import SIZE, Pixels, dense_batch, dense_tasks
from tests.helpers import fit, loader_of, make_batches, make_module, make_trainer, with_gaps

ALL: list[Any] = [PRCurves, ConfusionMatrices, PredictedAgainstTrue, DensePanels]


def witness(monkeypatch: pytest.MonkeyPatch, module: str, function: str) -> list[tuple[Any, ...]]:
    """What a drawing function is given, as it is drawn."""
    given: list[tuple[Any, ...]] = []
    real = getattr(drawing, function)

    def drawn(*arguments: Any) -> Any:
        given.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(f"mtl_lightning.callbacks.{module}.{function}", drawn)
    return given


def written(logger: TensorBoardLogger) -> EventAccumulator:
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def rows_of(task: str) -> list[Any]:
    """Batches of 24 rows with gaps, in which one task of each kind has a target."""
    batches = with_gaps(make_batches(3, seed=1), seed=1, share=0.2)
    for batch in batches:
        number = batch["targets"]["number"]
        batch["targets"] |= {
            "yes": torch.where(number.isnan(), torch.nan, (number > 1).double()),
            "labels": torch.where(batch["targets"]["vector"].isnan(), -100, (batch["targets"]["vector"] > 0).long()),
        }
        batch["targets"] = {task: batch["targets"][task]}
    return batches


TASKS: dict[str, Any] = {
    "number": partial(Regression, TargetSpec(units="kg")),
    "vector": partial(Regression, TargetSpec(shape=(3,), names=("x", "y", "z"))),
    "kind": partial(MulticlassClassification, TargetSpec(classes=4, names=("a", "b", "c", "d/e"))),
    "yes": partial(BinaryClassification, TargetSpec()),
    "labels": partial(MultilabelClassification, TargetSpec(classes=3, names=("p", "q", "r"))),
}


def run(task: str, tmp_path: Path, *callbacks: Callback, **options: Any) -> tuple[EventAccumulator, Any, Tensor]:
    """Train, and return what was written, the last validation's predictions and targets."""
    batches, module = rows_of(task), make_module(tasks={task: TASKS[task]()})
    logger = TensorBoardLogger(tmp_path)
    fit(module, batches, batches, logger=logger, callbacks=[*callbacks], max_epochs=2, **options)
    predicted = module.predict(torch.cat([batch["inputs"] for batch in batches]))[task]
    return written(logger), predicted, torch.cat([batch["targets"][task] for batch in batches])


# --------------------------------------------------------------------------------------------------------- the numbers
@pytest.mark.parametrize("task", ["yes", "kind", "labels"])
def test_precision_recall_curves_are_those_of_the_validation(task: str, tmp_path: Path) -> None:
    events, predicted, target = run(task, tmp_path, PRCurves())
    probability, columns = predicted["probability"], {"kind": 4, "labels": 3, "yes": 1}[task]
    names = {"kind": ["a", "b", "c", "d_e"], "labels": ["p", "q", "r"], "yes": [""]}[task]
    known = ~target.isnan() if target.is_floating_point() else target != -100
    tags = {f"val/pr_curve/{task}/{name}".rstrip("/") for name in names}
    assert {tag for tag in events.Tags()["tensors"] if "pr_curve" in tag} == tags
    for column, name in zip(range(columns), names, strict=True):
        chances = probability[:, column] if columns > 1 else probability
        truth = {"kind": target == column, "labels": target[:, column] == 1 if task == "labels" else known}.get(
            task, target == 1
        )
        mask = known[:, column] if task == "labels" else known
        first, second = events.Tensors(f"val/pr_curve/{task}/{name}".rstrip("/"))
        assert (first.step, second.step) == (2, 5)
        curve = tensor_util.make_ndarray(second.tensor_proto)
        positives, negatives = int((truth & mask).sum()), int((~truth & mask).sum())
        assert curve[:4, 0].tolist() == [positives, negatives, 0, 0]  # at the threshold 0 everything is a yes
        middle = curve[:4, 63]  # at 0.5
        said = (chances >= 0.5) & mask
        assert middle.tolist() == [
            int((said & truth).sum()),
            int((said & ~truth).sum()),
            int((~said & ~truth & mask).sum()),
            int((~said & truth & mask).sum()),
        ]


@pytest.mark.parametrize("task", ["yes", "kind", "labels"])
def test_confusion_matrices_count_what_is_taken_for_what(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = witness(monkeypatch, "confusion_matrices", "heat")
    events, predicted, target = run(task, tmp_path, ConfusionMatrices())
    label = predicted["label"]
    known = ~target.isnan() if target.is_floating_point() else target != -100
    found: list[list[int]] = []
    if task == "labels":
        for column in range(3):
            mask, truth, said = known[:, column], target[:, column], label[:, column]
            found.append([int((mask & (truth == t) & (said == p)).sum()) for t in (0, 1) for p in (0, 1)])
    else:
        classes = range(4 if task == "kind" else 2)
        found = [[int((known & (target == t) & (label == p)).sum()) for p in classes] for t in classes]
    assert drawn[-1][0].tolist() == found
    image = events.Images(f"val/confusion/{task}")[-1]
    assert image.step == 5
    assert len(image.encoded_image_string) < 20_000


@pytest.mark.parametrize("standardize", [False, True])
def test_predicted_numbers_stand_against_true_ones_in_original_units(
    standardize: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = witness(monkeypatch, "predicted_against_true", "points")
    made = Regression(TargetSpec(units="kg"), standardize=standardize)
    made.fit_target(torch.cat([batch["targets"]["number"] for batch in rows_of("number")]))
    monkeypatch.setitem(TASKS, "number", lambda: made)
    events, predicted, target = run("number", tmp_path, PredictedAgainstTrue())
    known = ~target.isnan()
    truth, said, title = drawn[-1]
    torch.testing.assert_close(truth, target[known])
    torch.testing.assert_close(said, predicted[known])
    assert title == "number (kg)"
    assert [image.step for image in events.Images("val/predicted/number")] == [2, 5]


def test_a_plot_for_each_output_of_a_vector(tmp_path: Path) -> None:
    events, _, _ = run("vector", tmp_path, PredictedAgainstTrue())
    (_, image) = events.Images("val/predicted/vector")
    assert image.width > 3 * 224
    assert image.height < 300


def test_points_are_where_they_should_be() -> None:
    """Low ones are left and below, high ones right and above; nothing else is drawn but the diagonal."""
    picture = drawing.points(torch.tensor([0.0, 10.0, 10.0]), torch.tensor([0.0, 10.0, 0.0]), "")
    blue = (picture[:, :, 2].astype(int) - picture[:, :, 0]) > 60
    ys, xs = np.nonzero(blue)
    assert {(bool(y > 120), bool(x > 120)) for y, x in zip(ys, xs, strict=True)} == {
        (True, False),
        (False, True),
        (True, True),
    }
    wild = drawing.points(torch.tensor([0.0, 1.0]), torch.tensor([1e30, -1e30]), "")
    assert wild.shape == picture.shape


# ---------------------------------------------------------------------------------------------------------- the sample
def test_a_small_sample_is_spread_over_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = witness(monkeypatch, "predicted_against_true", "points")
    _, _, target = run("number", tmp_path, PredictedAgainstTrue(rows=6))
    sample = drawn[-1][0].tolist()
    assert len(sample) == 6
    assert [sum(value in row for value in sample) for row in target.reshape(3, 8).tolist()] == [2, 2, 2]


@pytest.mark.parametrize("rows", [10, 40, 300, 5000])
def test_of_many_batches_some_are_looked_at(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first tenth of the split to the last; all rows, if there are fewer."""
    drawn = witness(monkeypatch, "predicted_against_true", "points")
    batches = make_batches(60, tasks=["number"])
    module = make_module(tasks={"number": TASKS["number"]()})
    callbacks: list[Callback] = [PredictedAgainstTrue(rows=rows)]
    fit(module, batches[:2], batches, logger=TensorBoardLogger(tmp_path), callbacks=callbacks)
    order = torch.cat([batch["targets"]["number"] for batch in batches]).tolist()
    places = [order.index(value) for value in drawn[-1][0].tolist()]
    assert len(set(places)) == len(places)
    assert min(rows, 480) * 0.75 <= len(places) <= min(rows * 1.5, 480)
    assert {place * 10 // 480 for place in places} >= {0, *(range(9) if rows > 10 else ())}


@pytest.mark.parametrize("options", [{"every_n_validations": 0}, {"every_n_validations": 3}])
def test_it_can_be_switched_off_or_be_seldom(options: Any, tmp_path: Path) -> None:
    events, _, _ = run("kind", tmp_path, *(cls(**options) for cls in ALL))
    assert events.Tags()["images"] == []
    assert not [tag for tag in events.Tags()["tensors"] if "pr_curve" in tag]


class Gallery(Logger):
    """A logger of the user's own, which takes pictures as Weights & Biases' does."""

    name, version = "gallery", "0"

    def __init__(self) -> None:
        super().__init__()
        self.pictures: dict[str, Any] = {}

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.pictures[key] = (images[0].shape, images[0].dtype, step)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


def test_other_loggers_get_pictures_if_they_take_some_and_none_is_no_trouble(tmp_path: Path) -> None:
    batches = rows_of("kind")
    gallery = Gallery()
    for loggers in (gallery, [CSVLogger(tmp_path)], False):
        module = make_module(tasks={"kind": TASKS["kind"]()})
        fit(module, batches, batches, logger=loggers, callbacks=[cls() for cls in ALL])
    assert list(gallery.pictures) == ["val/confusion/kind"]
    (height, width, colours), dtype, step = gallery.pictures["val/confusion/kind"]
    assert (colours, dtype, step) == (3, np.uint8, 2)
    assert min(height, width) > 100


def test_a_task_of_the_users_own_is_drawn_by_what_it_predicts(tmp_path: Path) -> None:
    class Odd(Regression):
        """Predicts something that no figure knows."""

        def predict(self, output: Tensor) -> Any:
            return {"words": ["many"] * len(output)}

        def for_metrics(self, output: Tensor) -> Tensor:
            return super().predict(output)

    batches = rows_of("number")
    logger = TensorBoardLogger(tmp_path)
    module = make_module(tasks={"number": Odd(TargetSpec())})
    fit(module, batches, batches, logger=logger, callbacks=[cls() for cls in ALL])
    assert written(logger).Tags()["images"] == []


def test_thousands_of_classes_cost_no_more_than_some(tmp_path: Path) -> None:
    task = MulticlassClassification(TargetSpec(classes=20_000))
    batches = rows_of("kind")
    logger = TensorBoardLogger(tmp_path)
    module = make_module(tasks={"kind": task})
    fit(module, batches, batches, logger=logger, callbacks=[PRCurves(), ConfusionMatrices()])
    tags = written(logger).Tags()
    assert tags["images"] == []
    assert {tag for tag in tags["tensors"] if "pr_curve" in tag} == {f"val/pr_curve/kind/{n}" for n in range(4)}


def test_without_pillow_pictures_have_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.tensor([[3, 1], [0, 4]])
    worded = drawing.heat(counts, ["a", "b"], ["a", "b"], "title")
    monkeypatch.setattr(drawing, "_font", lambda: None)
    plain = drawing.heat(counts, ["a", "b"], ["a", "b"], "title")
    assert worded.shape == plain.shape
    assert not np.array_equal(worded, plain)
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) == 4  # white, and a colour for each share above 0


# ---------------------------------------------------------------------------------------------------------- dense tasks
def test_panels_show_input_target_and_prediction(tmp_path: Path) -> None:
    tasks, batch = dense_tasks(), dense_batch()
    inputs = batch["inputs"]
    batches = [batch]
    module = make_module(tasks=tasks, architecture=Pixels(), input_spec=None)
    logger = TensorBoardLogger(tmp_path)
    fit(module, batches, batches, logger=logger, callbacks=[cls() for cls in ALL])
    events = written(logger)
    assert set(events.Tags()["images"]) == {
        *(f"val/panels/{task}" for task in tasks),
        "val/confusion/seg",
        "val/predicted/depth",
    }
    for task in tasks:
        image = np.asarray(Image.open(io.BytesIO(events.Images(f"val/panels/{task}")[0].encoded_image_string)))
        times = 160 // 20
        rows = image[14 : 14 + 12 * times : times, : 66 * times : times]
        assert rows.shape[:2] == (12, 66)
        _, target, prediction = rows[:, :20], rows[:, 22:42], rows[:, 44:64]
        known = np.ones(SIZE, dtype=bool)
        if task == "seg":
            known[:6, :10] = False
            assert (target[~known] == 0).all()
        if task == "depth":  # below 0 a depth is cut off
            known = (inputs[0, 0] + 2 > 0.1).numpy()
        assert np.abs(target[known].astype(int) - prediction[known]).max() <= 2
        assert len(np.unique(target.reshape(-1, 3), axis=0)) > 2


def test_what_is_drawn_on_two_processes_is_the_firsts(tmp_path: Path) -> None:
    batches = rows_of("kind")
    module = make_module(tasks={"kind": TASKS["kind"]()})
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False}
    logger = TensorBoardLogger(tmp_path)
    trainer = make_trainer(logger=logger, callbacks=[cls() for cls in ALL], **options)
    trainer.fit(module, loader_of(batches), loader_of(batches))
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents.*")} - {*tmp_path.rglob("best")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [image.step for image in events.Images("val/confusion/kind")] == [2]
