"""Validation, test and prediction: a split in uneven batches gives what it gives in one piece."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import CombinedLoader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassPrecisionRecallCurve,
    MulticlassRecall,
    MulticlassROC,
    MultilabelConfusionMatrix,
)

from mtl_lightning import MultiTaskModule
from mtl_lightning.core.update.figures import png
from mtl_lightning.nested import map_leaves
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import Batch, ConfigurationError, TargetSpec
from tests.core.by_hand import HandLoop
from tests.helpers import (
    SPECS,
    ForeignData,
    TinyData,
    fit,
    loader_of,
    make_batches,
    make_module,
    make_rows,
    make_tasks,
    make_trainer,
    with_gaps,
    without,
)

ROWS = make_rows(40, seed=3)


def pieces(*sizes: int) -> list[Batch]:
    """The same 40 rows, some labels missing, in batches of these sizes."""
    inputs, targets = ROWS
    (whole,) = with_gaps([{"inputs": inputs, "targets": targets}], seed=1)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    cuts = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return [
        {"inputs": whole["inputs"][cut], "targets": {n: t[cut] for n, t in whole["targets"].items()}} for cut in cuts
    ]


WHOLE, UNEVEN = pieces(40), pieces(1, 17, 3, 12, 7)


def evaluated(batches: Any, stage: str = "val", module: MultiTaskModule | None = None) -> dict[str, float]:
    """Run over ready-made batches, or over loaders."""
    trainer = make_trainer()
    loaders = loader_of(batches) if isinstance(batches, list) and isinstance(batches[0], dict) else batches
    run = trainer.validate if stage == "val" else trainer.test
    run(module or make_module(), loaders, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


# --------------------------------------------------------------------------------------------------------- by a split
@pytest.mark.parametrize("stage", ["val", "test"])
def test_uneven_batches_give_what_one_piece_gives(stage: str) -> None:
    names = [
        "loss",
        *(f"{kind}/{n}" for kind in ("loss", "labels") for n in SPECS),
        "mae/number",
        "rmse/number",
        "mae/vector",
        "rmse/vector",
    ]
    found = evaluated(UNEVEN, stage)
    assert sorted(found) == sorted(f"{stage}/{name}" for name in [*names, "accuracy/kind", "f1/kind"])
    assert found == pytest.approx(evaluated(WHOLE, stage), abs=1e-6)


def test_losses_and_metrics_by_hand() -> None:
    module = make_module(reads={"kind": ["number"]})
    found = evaluated(UNEVEN, module=module)
    by_hand = HandLoop(module, {}, reads={"kind": ("number", True)})
    with torch.no_grad():
        means = by_hand.means(WHOLE)
        outputs = by_hand.outputs(WHOLE[0]["inputs"], SPECS)
    assert found["val/loss"] == pytest.approx(float(torch.stack(list(means.values())).sum()), abs=1e-6)
    for name, mean in means.items():
        assert found[f"val/loss/{name}"] == pytest.approx(float(mean), abs=1e-6)
    targets = WHOLE[0]["targets"]
    residual = outputs["number"][:, 0] - targets["number"]
    assert found["val/rmse/number"] == pytest.approx(float(residual.square().nanmean().sqrt()), abs=1e-6)
    assert found["val/mae/vector"] == pytest.approx(
        float((outputs["vector"] - targets["vector"]).abs().nanmean()), abs=1e-6
    )
    labelled = targets["kind"] != -100
    assert found["val/labels/kind"] == labelled.sum() < 40
    assert found["val/labels/vector"] == (~targets["vector"].isnan()).sum() < 120
    right = outputs["kind"].argmax(1)[labelled] == targets["kind"][labelled]
    assert found["val/accuracy/kind"] == pytest.approx(float(right.double().mean()), abs=1e-6)


def test_validation_under_float64_is_exact() -> None:
    module = make_module().double()
    trainer = make_trainer()
    trainer.validate(module, loader_of(UNEVEN), verbose=False)
    by_hand = HandLoop(module, {})
    found = trainer.callback_metrics["val/loss"]
    torch.testing.assert_close(found.double(), by_hand.evaluate(WHOLE), rtol=1e-6, atol=0)


def test_weights_count_in_the_loss() -> None:
    weights = torch.linspace(0, 3, 40, dtype=torch.float64)
    starts = torch.tensor([0, 1, 18, 21, 33, 40]).tolist()
    batches = [{**b, "weights": weights[i:j]} for b, i, j in zip(UNEVEN, starts, starts[1:], strict=False)]
    expected = HandLoop(make_module(), {}).evaluate([{**WHOLE[0], "weights": weights}])
    assert evaluated(batches)["val/loss"] == pytest.approx(float(expected), abs=1e-6)
    assert float(expected) != pytest.approx(evaluated(UNEVEN)["val/loss"], abs=1e-3)
    labelled = WHOLE[0]["targets"]["kind"] != -100
    assert evaluated(batches)["val/labels/kind"] == pytest.approx(float(weights[labelled].sum()), rel=1e-6)


def test_a_task_without_a_label_is_left_out() -> None:
    found = evaluated([without(batch, "kind") for batch in UNEVEN])
    assert not [name for name in found if name.endswith("/kind")]
    assert found["val/loss"] == pytest.approx(found["val/loss/number"] + found["val/loss/vector"], abs=1e-6)


def test_each_epoch_starts_afresh() -> None:
    seen = []

    class Looking(MultiTaskModule):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            seen.append({name: float(value) for name, value in self.trainer.callback_metrics.items() if "val/" in name})

    module = make_module(Looking, optimizers={"default": partial(torch.optim.SGD, lr=0.0)})
    fit(module, make_batches(2), UNEVEN, max_epochs=3, num_sanity_val_steps=2)
    assert len(seen) == 4  # and the sanity check
    assert "val/loss_normalised" not in seen[0]  # before any label was seen
    normalised = {"val/loss_normalised": seen[1]["val/loss_normalised"]}
    assert seen[1] == seen[2] == seen[3] == pytest.approx({**evaluated(WHOLE), **normalised}, abs=1e-6)
    assert seen[0] != seen[1]  # which is over two batches only


def test_a_tasks_own_metrics() -> None:
    tasks = {**make_tasks(), "number": Regression(SPECS["number"], metrics={"error": MeanAbsoluteError})}
    found = evaluated(UNEVEN, module=make_module(tasks=tasks))
    mine = [name for name in found if name.endswith("/number")]
    assert mine == ["val/loss/number", "val/labels/number", "val/error/number"]


def test_metrics_are_in_original_units() -> None:
    number = Regression(SPECS["number"], standardize=True)
    number.fit_target(torch.tensor([100.0, 300.0]))  # mean 200, standard deviation 100
    module = make_module(tasks={"number": number})
    for parameter in module.heads.parameters():
        nn.init.zeros_(parameter)
    found = evaluated([without(batch, "vector", "kind") for batch in UNEVEN], module=module)
    targets = WHOLE[0]["targets"]["number"]
    assert found["val/mae/number"] == pytest.approx(float((targets - 200).abs().nanmean()), rel=1e-5)
    assert found["val/loss/number"] == pytest.approx(float(((targets - 200) / 100).square().nanmean()), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- several loaders
@pytest.mark.parametrize(
    ("loaders", "names"),
    [
        pytest.param([loader_of(UNEVEN), loader_of(WHOLE)], ["val/0", "val/1"], id="a list"),
        pytest.param({"a": loader_of(UNEVEN), "b": loader_of(WHOLE)}, ["val/a", "val/b"], id="a dict"),
        pytest.param([loader_of(UNEVEN)], ["val"], id="one in a list"),
        pytest.param({"a": loader_of(UNEVEN)}, ["val"], id="one in a dict"),
    ],
)
def test_several_loaders_have_names(loaders: Any, names: list[str]) -> None:
    found, expected = evaluated(loaders), evaluated(WHOLE)
    for name in names:
        for key, value in expected.items():
            assert found[f"{name}/{key.removeprefix('val/')}"] == pytest.approx(value, abs=1e-6)
    assert len(found) == len(names) * len(expected)


@pytest.mark.parametrize(
    ("loaders", "names"),
    [
        pytest.param({"A": [0, 1], "B": 0}, ["val/A/0", "val/A/1", "val/B"], id="a list in a dict"),
        pytest.param(({"a": 0, "b": 1}, 0), ["val/0/a", "val/0/b", "val/1"], id="a dict in a tuple"),
        pytest.param({"A": {"near": [0], "far": 1}}, ["val/A/near/0", "val/A/far"], id="deeper"),
    ],
)
def test_nested_loaders_are_named_by_their_places(loaders: Any, names: list[str]) -> None:
    made = map_leaves(lambda which: loader_of([UNEVEN, WHOLE][which]), loaders)
    found, expected = evaluated(made), evaluated(WHOLE)
    assert {key.rpartition("/loss")[0] for key in found if key.endswith("/loss")} == set(names)
    assert found[f"{names[-1]}/loss"] == pytest.approx(expected["val/loss"], abs=1e-6)


def test_one_dataset_per_task_in_validation() -> None:
    numbers = [without(batch, "kind", "vector") for batch in UNEVEN]
    kinds = [without(batch, "number") for batch in WHOLE]
    joint = CombinedLoader({"numbers": loader_of(numbers), "kinds": loader_of(kinds)}, "max_size")
    assert evaluated(joint) == pytest.approx(evaluated(WHOLE), abs=1e-6)


def test_loaders_whose_tasks_are_apart_need_no_names() -> None:
    numbers = [without(batch, "kind", "vector") for batch in UNEVEN]
    kinds = [without(batch, "number") for batch in WHOLE]
    assert evaluated({"a": loader_of(numbers), "b": loader_of(kinds)}) == pytest.approx(evaluated(WHOLE), abs=1e-6)
    overlapping = evaluated({"a": loader_of(numbers), "b": loader_of(WHOLE)})
    assert {name.split("/")[1] for name in overlapping} == {"a", "b"}


def test_what_was_trained_is_validated_with_the_datamodules_names() -> None:
    class Two(ForeignData):
        def val_dataloader(self) -> Any:
            return {"near": loader_of(UNEVEN), "far": loader_of(WHOLE)}

    trainer = fit(make_module(), Two(), max_epochs=2)
    keys = {name for name in trainer.callback_metrics if name.startswith("val/") and name.endswith("loss")}
    assert keys == {"val/near/loss", "val/far/loss"}


# ---------------------------------------------------------------------------------------------------------- prediction
def predicted(data: Any, module: MultiTaskModule | None = None, **options: Any) -> Sequence[dict[str, Any]]:
    found = make_trainer(**options).predict(module or make_module(), data)
    assert found is not None
    return found  # type: ignore[return-value]  # a list of batches


def shapes(value: Any) -> Any:
    return {name: shapes(v) for name, v in value.items()} if isinstance(value, dict) else tuple(value.shape)


EXPECTED = {"number": (8,), "vector": (8, 3), "kind": {"probability": (8, 4), "label": (8,)}}


@pytest.mark.parametrize(
    "strip",
    [
        pytest.param(lambda batch: batch, id="batches"),
        pytest.param(lambda batch: {"inputs": batch["inputs"]}, id="no targets"),
        pytest.param(lambda batch: batch["inputs"], id="inputs alone"),
    ],
)
def test_predictions_of_every_task(strip: Any) -> None:
    batches = make_batches(3)
    module = make_module()
    found = predicted(loader_of([strip(batch) for batch in batches]), module)
    assert [shapes(batch) for batch in found] == [EXPECTED] * 3
    outputs = module.double()(batches[1]["inputs"])
    assert torch.equal(found[1]["vector"], outputs["vector"])
    assert torch.equal(found[1]["kind"]["label"], outputs["kind"].argmax(1))


def test_predictions_of_a_datamodule_in_order_and_in_original_units() -> None:
    data = TinyData(standardize=True)
    module = make_module(tasks=data.tasks)
    found = torch.cat([batch["number"] for batch in predicted(data, module, precision="32-true")])
    inputs = torch.cat([batch["inputs"] for batch in data.test_dataloader()])
    assert found.shape == (21,)
    outputs = module.eval()(inputs)["number"][:, 0]
    number: Any = module.tasks["number"]
    expected = outputs.double() * number.target_std + number.target_mean
    torch.testing.assert_close(found, expected.float())


def test_dropout_is_off_in_prediction() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5))
    module = make_module(architecture=network)
    first, second = predicted(loader_of(make_batches(1)), module), predicted(loader_of(make_batches(1)), module)
    assert torch.equal(first[0]["number"], second[0]["number"])


def test_a_batch_of_predictions_without_a_trainer() -> None:
    module = make_module().eval()
    inputs: Tensor = make_batches(1)[0]["inputs"].float()
    assert shapes(module.predict_step({"inputs": inputs}, 0)) == EXPECTED


@pytest.mark.parametrize("name", ["loss", "labels"])
def test_a_metric_by_the_name_of_what_is_logged_anyway_is_refused(name: str) -> None:
    task = Regression(TargetSpec(), metrics={name: MeanAbsoluteError})
    module = make_module(tasks={"number": task})
    with pytest.raises(
        ConfigurationError, match=rf"Task 'number': expected metrics with names .* found \['{name}'\]: `val"
    ):
        fit(module, make_batches(1, tasks=["number"]))


# ------------------------------------------------------------------------------------------- metrics that are no number
KIND = TargetSpec(classes=4, names=("hut", "flat", "a/b", "villa"))


def classified(metric: Any, names: tuple[str, ...] = KIND.names) -> MultiTaskModule:
    task = MulticlassClassification(TargetSpec(classes=4, names=names), metrics={"it": metric})
    return make_module(tasks={**make_tasks("number"), "kind": task})


def test_a_number_for_each_class() -> None:
    module = classified(partial(MulticlassRecall, num_classes=4, average="none"))
    found = evaluated([without(batch, "vector") for batch in UNEVEN], module=module)
    inputs, targets = ROWS
    labels = WHOLE[0]["targets"]["kind"]
    right = module.predict(inputs)["kind"]["label"] == targets["kind"]
    for label, name in enumerate(["hut", "flat", "a_b", "villa"]):
        assert found[f"val/it/kind/{name}"] == pytest.approx(float(right[labels == label].double().mean()))
    nameless = classified(partial(MulticlassRecall, num_classes=4, average="none"), ())
    nameless.load_state_dict(module.state_dict())
    again = evaluated([without(WHOLE[0], "vector")], module=nameless)
    assert again["val/it/kind/3"] == pytest.approx(found["val/it/kind/villa"])


class Drawing(CSVLogger):
    """A logger that takes pictures."""

    def __init__(self, folder: Any) -> None:
        super().__init__(folder)
        self.drawn: dict[str, Any] = {}

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self.drawn[key] = images


def test_a_confusion_matrix_is_a_picture(tmp_path: Path) -> None:
    """For loggers that take some; others are given its entries."""
    drawing, board, plain = Drawing(tmp_path), TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "csv")
    module = classified(partial(MulticlassConfusionMatrix, num_classes=4))
    batches = [without(batch, "vector") for batch in UNEVEN]
    trainer = fit(module, batches, batches, logger=[drawing, board, plain], num_sanity_val_steps=1)
    assert "val/it/kind" not in trainer.callback_metrics
    inputs, _ = ROWS
    labels = WHOLE[0]["targets"]["kind"]
    predicted_labels = module.predict(inputs)["kind"]["label"]
    counts = torch.zeros(4, 4)
    for label, found in zip(labels.tolist(), predicted_labels.tolist(), strict=True):
        if label >= 0:
            counts[label, found] += 1
    (picture,) = drawing.drawn["val/it/kind"]
    assert picture.shape == (256, 256)
    shares = torch.tensor(255 - picture[32::64, 32::64].astype(int)) / 255
    torch.testing.assert_close(shares.float(), counts / counts.sum(1, keepdim=True), atol=3e-3, rtol=0)
    rows = list(csv.DictReader(next((tmp_path / "csv").rglob("metrics.csv")).read_text().splitlines()))
    assert [float(row["val/it/kind/2/1"]) for row in rows if row.get("val/it/kind/2/1")] == [counts[2, 1]]
    events = EventAccumulator(board.log_dir, {"images": 0}).Reload()
    (image,) = events.Images("val/it/kind")
    assert image.encoded_image_string == png(picture)


@pytest.mark.parametrize(
    "metric",
    [
        partial(MulticlassROC, num_classes=4, thresholds=5),
        partial(MulticlassPrecisionRecallCurve, num_classes=4, thresholds=5),
        partial(MultilabelConfusionMatrix, num_labels=4),
    ],
    ids=["a curve", "another", "several matrices"],
)
def test_what_cannot_be_logged_is_refused_before_the_first_batch(metric: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"The metric 'val/it/kind': expected a number, a vector .* found"):
        fit(classified(metric), [{}])


def test_what_can_only_be_seen_with_data_is_refused_then() -> None:
    with pytest.raises(ConfigurationError, match=r"The metric 'val/it/kind': expected a number, a vector .* found tup"):
        evaluated(
            [without(batch, "vector") for batch in UNEVEN], module=classified(partial(MulticlassROC, num_classes=4))
        )
