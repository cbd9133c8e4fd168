"""The comparison on correlated tasks runs; its models are of one size and its table says what was found."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks import correlated_tasks
from benchmarks.correlated_tasks import Found, models, size
from mtl_lightning.data import CorrelatedRegression


def test_the_two_networks_are_of_one_size() -> None:
    data = CorrelatedRegression()
    shared, mixed = (size(architecture, data) for architecture in models(data).values())
    assert mixed == 8 * (100 + 1) * 16 + 2 * (100 + 1) * 8 + 2 * (16 * 8 + 8 + 8 + 1)
    assert abs(shared - mixed) < 0.01 * mixed


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    correlated_tasks.main(["--correlations", "0.5", "--seeds", "2", "--epochs", "1", "--rates", "1e-2"])
    *_, row = capsys.readouterr().out.splitlines()
    number = r"-?\d\.\d{4} \+- \d\.\d{4}"
    assert re.fullmatch(rf"\| 0\.5 \| {number} \(0\.01\) \| {number} \(0\.01\) \| {number} \|", row)


def test_the_rate_is_chosen_by_validation_on_the_first_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(architecture: Any, data: CorrelatedRegression, rate: float, epochs: int) -> tuple[float, float]:
        assert (data.correlation, data.batch_size, epochs) == (0.9, 250, 7)
        validated = 1.0 if rate == 0.1 else [0.5, 0.5, 9.0][data.seed]  # the third seed and the test losses prefer 0.1
        return validated, 10 * rate + data.seed

    monkeypatch.setattr(correlated_tasks, "train", train)
    found = correlated_tasks.compare(None, 0.9, 3, 7, [0.1, 0.2])  # type: ignore[arg-type]  # nothing is trained
    assert found == Found(0.2, [2.0, 3.0, 4.0])
    assert str(Found(0.1, [1.0, 2.0, 3.0])) == "2.0000 +- 0.5774 (0.1)"  # the root of 1/3
