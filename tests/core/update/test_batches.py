"""What is wrong with a batch is said in words, with the task's name, in the first batch and in any later one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from mtl_lightning.core.update.batches import micro_batches
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import BatchError, ConfigurationError, TargetError, TargetSpec
from tests.core.update.test_absent import unlabelled
from tests.helpers import ForeignData, fit, loader_of, make_batches, make_module, make_tasks, make_trainer, without

TASKS = ["number", "vector", "kind"]
GOOD = make_batches(3)
INPUTS, TARGETS = GOOD[0]["inputs"], GOOD[0]["targets"]
NUMBER, VECTOR, KIND = TARGETS["number"], TARGETS["vector"], TARGETS["kind"]
each_place = pytest.mark.parametrize("place", [0, 2], ids=["first batch", "later batch"])


# ------------------------------------------------------------------------------------------------------------ the shape
@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(GOOD[0], [GOOD[0]], id="a batch"),
        pytest.param({"a": GOOD[0], "b": GOOD[1]}, [GOOD[0], GOOD[1]], id="a batch per dataset"),
        pytest.param({"a": None, "b": GOOD[1]}, [GOOD[1]], id="a dataset that is over"),
    ],
)
def test_items_and_their_batches(item: Any, expected: list[Any]) -> None:
    found = micro_batches(item, TASKS)
    assert [id(batch) for batch in found] == [id(batch) for batch in expected]


def test_batches_with_the_same_inputs_are_one() -> None:
    inputs, weight = torch.zeros(3, 4), torch.tensor([1.0, 0.0, 2.0])
    first = {"inputs": inputs, "targets": {"number": torch.ones(3)}}
    second = {"inputs": inputs, "targets": {"kind": torch.tensor([0, 1, 2])}, "weights": weight}
    third = {"inputs": inputs.clone(), "targets": {"vector": torch.zeros(3, 3)}}
    one, other = micro_batches({"a": first, "b": second, "c": third}, ["number", "kind", "vector"])
    assert one["inputs"] is inputs
    assert list(one["targets"]) == ["number", "kind"]
    assert one["weights"] == {"kind": weight}
    assert other == third
    assert micro_batches({"a": first, "b": first}, ["number"]) == [first, first]  # two labels of one task


@pytest.mark.parametrize(
    ("item", "message"),
    [
        pytest.param([INPUTS, NUMBER], r"Expected a batch \{'inputs': .* found list\. Return dicts", id="a list"),
        pytest.param(
            {"x": INPUTS, "y": NUMBER}, r"found the keys \['x', 'y'\]\. Put what the network reads into", id="x, y"
        ),
        pytest.param({}, r"found the keys \[\]", id="empty"),
        pytest.param({**GOOD[0], "name": 1}, r"found the keys \['inputs', 'name', 'targets'\]", id="a further key"),
        pytest.param(
            {"a": GOOD[0], "b": {"inputs": INPUTS}},
            r"to be a dict \{task: tensor\} .*, found NoneType",
            id="no targets",
        ),
        pytest.param(
            {"inputs": INPUTS, "targets": NUMBER}, r"batch\['targets'\] to be a dict .* found Tensor", id="a tensor"
        ),
        pytest.param(
            {"inputs": INPUTS, "targets": {}}, r"for no task: expected some of \['number', .*, found none", id="no task"
        ),
        pytest.param(
            {"inputs": INPUTS, "targets": {"number": NUMBER, "nubmer": NUMBER}},
            r"targets for \['nubmer'\], which are no tasks: expected some of \['number', 'vector', 'kind'\]",
            id="no such task",
        ),
        pytest.param(
            {**GOOD[0], "weights": {"knid": NUMBER}},
            r"weights for \['knid'\], which are no tasks",
            id="weights of no task",
        ),
    ],
)
@each_place
def test_batches_that_cannot_be_right(item: Any, message: str, place: int) -> None:
    with pytest.raises(BatchError, match=message):
        fit(make_module(), [*GOOD[:place], item])


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_other_stages_check_the_same(stage: str) -> None:
    bad = {"inputs": INPUTS, "targets": {"nubmer": NUMBER}}
    with pytest.raises(BatchError, match=r"targets for \['nubmer'\]"):
        getattr(make_trainer(), stage)(make_module(), loader_of([GOOD[0], bad]))


# ---------------------------------------------------------------------------------------------------------- the targets
BAD_TARGETS = [
    pytest.param(
        "number", NUMBER.long(), r"Regression: .* a floating-point dtype, found torch\.int64", id="dtype of number"
    ),
    pytest.param("kind", KIND.double(), r"an integer dtype, found torch\.float64", id="dtype of kind"),
    pytest.param(
        "number", NUMBER[:, None].expand(-1, 2), r"expected a target of shape \(B,\).*\(8, 2\)", id="too wide"
    ),
    pytest.param("vector", VECTOR[:, :2], r"expected a target of shape \(B, 3\), found \(8, 2\)", id="too narrow"),
    pytest.param("vector", VECTOR[:, 0], r"expected a target of shape \(B, 3\), found \(8,\)", id="a column alone"),
    pytest.param(
        "kind", KIND.clone().fill_(4), r"expected classes 0\.\.3 or -100 .*, found 4 in row 0", id="class too high"
    ),
    pytest.param(
        "kind", torch.where(KIND == 1, -1, KIND), r"classes 0\.\.3 .*, found -1 in row \d", id="class too low"
    ),
    pytest.param(
        "number", NUMBER / 0, r"expected finite numbers or nan for missing, found -?inf in row 0", id="infinite"
    ),
]


@pytest.mark.parametrize(("task", "target", "message"), BAD_TARGETS)
@each_place
def test_a_target_that_cannot_be_right_names_its_task(task: str, target: Any, message: str, place: int) -> None:
    bad = {**GOOD[place], "targets": {**GOOD[place]["targets"], task: target}}
    with pytest.raises(TargetError, match=rf"Task '{task}': .*{message}"):
        fit(make_module(), [*GOOD[:place], bad])


@pytest.mark.parametrize(("task", "target", "message"), BAD_TARGETS)
@each_place
def test_the_same_in_validation(task: str, target: Any, message: str, place: int) -> None:
    bad = {**GOOD[place], "targets": {**GOOD[place]["targets"], task: target}}
    with pytest.raises(TargetError, match=rf"Task '{task}': .*{message}"):
        make_trainer().validate(make_module(), loader_of([*GOOD[:place], bad]), verbose=False)


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(torch.ones(7, dtype=torch.float64), id="too few"),
        pytest.param(torch.ones(8, 1, dtype=torch.float64), id="two axes"),
        pytest.param({"kind": torch.full((8,), torch.nan, dtype=torch.float64)}, id="nan"),
    ],
)
@each_place
def test_weights_that_cannot_be_right(weights: Any, place: int) -> None:
    task = "kind" if isinstance(weights, dict) else "number"
    with pytest.raises(
        TargetError, match=rf"Task '{task}': expected 8 sample weights that are not negative, found shape"
    ):
        fit(make_module(), [*GOOD[:place], {**GOOD[place], "weights": weights}])


def test_negative_weights() -> None:
    with pytest.raises(TargetError, match=r"not negative, found shape \(8,\) and a smallest value of -1\.0"):
        fit(make_module(), [{**GOOD[0], "weights": torch.linspace(-1, 1, 8, dtype=torch.float64)}])


# ------------------------------------------------------------------------------------------------------- never labelled
def never(task: str) -> list[Any]:
    return [unlabelled(batch, task) for batch in GOOD]


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param(never("kind"), id="no label"),
        pytest.param([without(batch, "kind") for batch in GOOD], id="no target"),
    ],
)
def test_a_task_without_a_label_in_the_first_epoch(batches: list[Any]) -> None:
    keys = "'kind', 'number', 'vector'" if "kind" in batches[0]["targets"] else "'number', 'vector'"
    message = rf"The tasks \['kind'\] had no label in a whole epoch: .* found the keys \[{keys}\]\..*`allow_unlabelled`"
    with pytest.raises(ConfigurationError, match=message):
        fit(make_module(), batches)


def test_it_may_be_allowed() -> None:
    trainer = fit(make_module(allow_unlabelled=["kind"]), never("kind"), max_epochs=2)
    assert trainer.global_step == 6


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"max_steps": 2, "max_epochs": -1}, id="stopped early"),
        pytest.param({"limit_train_batches": 2}, id="limited"),
        pytest.param({"fast_dev_run": True}, id="fast_dev_run"),
    ],
)
def test_part_of_an_epoch_proves_nothing(options: dict[str, Any]) -> None:
    trainer = fit(make_module(), [*never("kind"), GOOD[0]], **options)
    assert trainer.global_step in (1, 2)


def test_one_label_is_enough_and_later_epochs_are_not_asked() -> None:
    class Once(ForeignData):
        def train_dataloader(self) -> Any:
            trainer = self.trainer
            assert isinstance(trainer, Trainer)
            return loader_of(GOOD if trainer.current_epoch == 0 else never("kind"))

    trainer = fit(make_module(), Once(), max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert trainer.global_step == 9


def test_all_weights_zero_is_no_label() -> None:
    batches = [{**batch, "weights": {"kind": torch.zeros(8, dtype=torch.float64)}} for batch in GOOD]
    with pytest.raises(ConfigurationError, match=r"The tasks \['kind'\] had no label"):
        fit(make_module(), batches)


# ---------------------------------------------------------------------------------------------------------- by the data
class Declared(ForeignData):
    """A user's datamodule that declares its tasks."""

    tasks = make_tasks("number", "kind")


def test_a_task_that_the_datamodule_does_not_declare() -> None:
    message = r"`tasks, which the datamodule declares`: expected one of \['number', 'kind'\], found 'vector'\."
    with pytest.raises(ConfigurationError, match=message):
        fit(make_module(), Declared())


def test_a_standardised_task_that_was_never_fitted() -> None:
    tasks = {
        "number": Regression(TargetSpec(), standardize=True),
        "kind": MulticlassClassification(TargetSpec(classes=4)),
    }
    with pytest.raises(
        ConfigurationError, match=r"The tasks \['number'\] standardise .* `task\.fit_target\(targets\)`"
    ):
        fit(make_module(tasks=tasks), [without(batch, "vector") for batch in GOOD])
