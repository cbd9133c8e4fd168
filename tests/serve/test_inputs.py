"""Rows that are no table's: what fits the inputs of a network is computed, what does not is told by row and input."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest

from mtl_lightning import Predictor
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.export import export_network
from mtl_lightning.serve.body import Expected, Rows
from mtl_lightning.serve.inputs import array_of
from mtl_lightning.serve.worker import answered
from tests.export.networks import TWO_INPUTS, TwoInputs, network, two_tasks

PICTURE = np.linspace(0, 1, 48).reshape(3, 4, 4).tolist()
GOOD = {"picture": PICTURE, "words": [1, 2, 3, 4, 5]}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """An export with the inputs `picture`, of any size, and `words`."""
    folder = tmp_path_factory.mktemp("two") / "out"
    made = network(two_tasks(), partial(SharedBottom, encoder=TwoInputs()), TWO_INPUTS)
    inputs = {"picture": np.ones((2, 3, 4, 4), np.float32), "words": np.ones((2, 5), np.int64)}
    export_network(made, folder, "pt2", inputs)
    return Predictor.from_export(folder)


def test_further_keys_are_not_looked_at(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "expected", Expected(predictor.description))
    rows = [{"q": [1], **GOOD}, {**GOOD, "q": [1, 2]}]
    (answer,) = answered(predictor, [Rows(rows=rows)])
    assert not isinstance(answer, Exception)
    (alone,) = answered(predictor, [Rows(rows=[GOOD, GOOD])])
    assert not isinstance(alone, Exception)
    assert json.loads(bytes(answer.body)) == json.loads(bytes(alone.body))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("words", [1, 2, None, 4, 5], "expected numbers of the shape (5) that int64 can hold, found null at [2]"),
        ("words", [1, 2, 3, 4, 2**70], "that int64 can hold, found 1180591620717411303424 at [4]"),
        ("words", ["1", "2", "3", "4", "5"], 'found "1" at [0]'),
        ("words", [1, 2, 3, 4, True], "found true at [4]"),
        ("words", [1, 2, 3, 4, 1.5], "found 1.5 at [4]"),
        ("words", [1, 2], "expected numbers of the shape (5), found (2)"),
        ("words", 3, "expected numbers of the shape (5), found 3"),
        ("picture", [[[1e39]]] * 3, "expected numbers of the shape (3, *, *) that float32 can hold, found 1e+39"),
        ("picture", [[[0.5, float("nan")]]] * 3, "found NaN at [0, 0, 1]"),
        ("picture", [[[None]]] * 3, "found null at [0, 0, 0]"),
        ("picture", [[[10**400]]] * 3, "that float32 can hold, found 1000"),
        ("picture", [[["0.5"]]] * 3, 'found "0.5" at [0, 0, 0]'),
        ("picture", [[[1.0]], [[1.0, 2.0]], [[1.0]]], "expected numbers of the shape (3, *, *), found [[[1.0]]"),
        (
            "picture",
            [[[1.0]]] * 3,
            "expected the sizes (3, 4, 4) of the rows before it in one request, found (3, 1, 1)",
        ),
    ],
)
def test_cells_that_do_not_fit_are_told_by_row_and_input(
    name: str, given: Any, message: str, predictor: Predictor
) -> None:
    (wrong,), _ = Expected(predictor.description).mistakes([GOOD, {**GOOD, name: given}])
    assert (wrong["row"], wrong["column"]) == (1, name)
    assert wrong["message"].startswith(f"row 2, column {name!r}: expected ")
    assert message in wrong["message"]


def test_a_row_without_an_input_is_told(predictor: Predictor) -> None:
    (wrong,), _ = Expected(predictor.description).mistakes([{"picture": PICTURE}])
    assert "row 1: expected an object with ['picture', 'words']" in wrong["message"]


def test_arrays_have_the_dtype_of_the_network() -> None:
    assert array_of([1, 2.0], [2], "int64").dtype == np.int64
    assert array_of([[1], [2]], [2, None], "bfloat16").dtype == np.float32
    assert array_of([True, False], [2], "bool").tolist() == [True, False]
    assert array_of(3, [], "float16").shape == ()


@pytest.mark.parametrize(
    ("dates", "said"), [("iso", "of ISO 8601 as in training, such as '2026-03-31'"), ("%d.%m.%y", "such as '31.03.26'")]
)
def test_a_date_that_cannot_be_read_is_told_with_the_format_of_training(dates: str, said: str) -> None:
    known = {"mean": 1.7e9, "std": 1e7, "log1p": False}
    schema = {
        "numeric": {"built": known},
        "categorical": {},
        "targets": {},
        "missing_values": [],
        "reads": {"built": {"dates": dates}},
    }
    expected = Expected({"schema": schema, "input_spec": None})
    (wrong,), _ = expected.mistakes([{"built": "last year"}])
    assert "row 1, column 'built': expected a date " in wrong["message"]
    assert said in wrong["message"]
    good = "2026-03-31" if dates == "iso" else "31.03.26"
    assert expected.mistakes([{"built": good}, {"built": None}])[0] == []
