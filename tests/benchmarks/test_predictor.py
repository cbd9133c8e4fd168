"""The predictor's benchmark runs, and times calls that give the same. How fast anything is, it says itself."""

from __future__ import annotations

import pytest

from benchmarks import predictor
from mtl_lightning import Predictor


def test_it_measures_and_says_what_became_of_the_goals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictor, "_TRAINED", 300)
    monkeypatch.setattr(predictor, "STEPS", {1: 2, 20: 1})
    monkeypatch.setattr(predictor, "GOALS", {1: 1e9, 20: 0.0})
    predictor.main(["--rounds", "1", "--rows", "1", "20"])
    said = capsys.readouterr().out
    assert said.count("\n| 1 |") == said.count("\n| 20 |") == 1
    assert "goal <= 1,000,000,000: met" in said
    assert "goal <= 0: missed" in said


def test_other_answers_are_not_timed() -> None:
    network, schema, table = predictor.made()
    rows = table.slice(0, 5).to_pylist()
    wanted = predictor.by_hand(network, schema, rows)
    predictor.same(Predictor(network)(rows).tasks, wanted)
    with pytest.raises(AssertionError, match=r"price\.value"):
        predictor.same(wanted, {"price": {"value": wanted["price"]["value"] + 1}})
