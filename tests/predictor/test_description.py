"""What a predictor knows, as plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mtl_lightning.errors import CheckpointError
from mtl_lightning.predictor.description import check_description, make_description
from mtl_lightning.tasks import (
    BinaryClassification,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
    SemanticSegmentation,
)
from mtl_lightning.types import TargetSpec

SCHEMA: dict[str, Any] = {
    "numeric": {},
    "categorical": {},
    "missing_values": [],
    "targets": {"sold": {"kind": "classes", "values": ["no", "yes"]}, "dear": {"kind": "at_least"}},
}


def test_tasks_say_how_they_are_decoded() -> None:
    pair, three = TargetSpec(classes=2, names=("no", "yes")), TargetSpec(classes=3)
    assert BinaryClassification(pair).decoding() == {"form": "binary", "names": ["no", "yes"]}
    assert MulticlassClassification(three).decoding() == {"form": "classes", "names": ["0", "1", "2"]}
    assert MultilabelClassification(three).decoding() == {"form": "labels", "names": ["0", "1", "2"]}
    assert Regression(TargetSpec(units="EUR")).decoding() == {"form": "values", "names": [], "units": "EUR"}
    several = Regression(TargetSpec(shape=(2,), names=("a", "b"))).decoding()
    assert several == {"form": "values", "names": ["a", "b"], "units": ""}
    assert SemanticSegmentation(three).decoding() == {"form": "arrays"}


def test_class_names_come_from_the_schema_where_it_has_them() -> None:
    made = {name: BinaryClassification(TargetSpec()).decoding() for name in ("sold", "dear")}
    described = make_description(tasks=made, schema=SCHEMA, input_spec=None, text={"delimiter": ";", "path": "x"})
    assert described["tasks"]["sold"]["names"] == ["no", "yes"]
    assert described["tasks"]["dear"]["names"] == ["0", "1"]
    assert described["text"] == {"delimiter": ";"}
    assert check_description(json.loads(json.dumps(described)), "schema.json") == described
    assert make_description(tasks=made, schema={"input_spec": None}, input_spec=None)["schema"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": {"format": 7}}, "expected a description of format 1, found 7"),
        ({"versions": None}, "found None"),
        ({"tasks": []}, "expected `tasks` as dict, found"),
        ({"schema": {"numeric": {}}}, "expected the schema of a table"),
        ({"tasks": {"sold": {"form": "poem"}}}, "of task 'sold' a `form` among"),
    ],
)
def test_what_is_no_description_is_refused(change: dict[str, Any], message: str) -> None:
    described = make_description(tasks={"y": {"form": "arrays"}}, schema=SCHEMA, input_spec=None)
    with pytest.raises(CheckpointError, match=message):
        check_description(described | change, "schema.json")
    with pytest.raises(CheckpointError, match="found list"):
        check_description([], "schema.json")
