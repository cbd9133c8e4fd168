"""The cost of Census-Income is measured phase by phase; without the data it says what is missing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import census_cost
from benchmarks.census_cost import COMMAND, LOAD, PHASES, TRAIN
from tests.data.make_tables import write_census


def test_a_phase_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census_cost, "silence_lightning", lambda: None)  # for the rest of the process
    root = write_census(tmp_path / "root")
    for phase in (LOAD, TRAIN):
        census_cost.measure(phase, str(root))
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["cpu"] > 0
        assert found["peak"] >= found["before"] > 0
    assert 0 <= found["auc"] <= 1


def test_goals_are_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(phase: str, root: str) -> dict[str, Any]:
        assert root == "there"
        costs = dict.fromkeys(("cpu", "seconds", "imports", "before"), 5.0 if phase == TRAIN else 9.0)
        return {**costs, "peak": 1000.0, "result": "r", "auc": 0.9396}

    monkeypatch.setattr(census_cost, "_in_a_process", found)
    monkeypatch.setattr(census_cost, "command", lambda root: found(TRAIN, root) | {"imports": None, "before": None})
    (table,) = census_cost.tables(argparse.Namespace(root="there", rounds=2))
    assert [goal.met for goal in table.goals] == [True, False, True]
    assert [row[0] for row in table.rows] == [*PHASES, COMMAND]
    assert table.rows[-1][3] is None


@pytest.mark.slow  # a fresh process that imports everything
def test_the_command_is_measured_from_outside(tmp_path: Path) -> None:
    found = census_cost.command(str(write_census(tmp_path / "root")))
    assert found["cpu"] > 1
    assert found["peak"] > 100
    with pytest.raises(RuntimeError, match="failed with status"):
        census_cost.command(str(tmp_path / "nowhere"))


def test_without_the_data_it_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"census_cost cannot run: no census-income\.data in .* \(--root\)"):
        census_cost.main(["--root", str(tmp_path)])
