"""The benchmarks of scaling run, share out the same rows and compute what they say; how fast anything is, they say."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import scaling_processes, scaling_tasks
from benchmarks.loops import OURS
from benchmarks.records import Spread
from benchmarks.scaling_processes import METHODS, RAW, part_of
from benchmarks.workloads import WORKLOADS, Workload
from mtl_lightning.architectures import MLP, MLPHead
from tests import programs


def tiny(tasks: int) -> Workload:
    return Workload((3,), 6, tasks, partial(MLP, hidden=[5]), partial(MLPHead, hidden=[2]))


# ---------------------------------------------------------------------------------------------------------------- tasks
def test_steps_of_some_numbers_of_tasks_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling_tasks, "table", tiny)
    monkeypatch.setattr(scaling_tasks, "_TASK_STEPS", 1)
    monkeypatch.setattr(scaling_tasks, "FROM", 2)
    monkeypatch.setattr(scaling_tasks, "TO", 3)
    scaling_tasks.main(["2", "3", "--rounds", "1"])
    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if re.match(r"\| \d", line)]
    assert [row[0] for row in rows] == ["2", "3"]
    assert [len(row) for row in rows] == [6, 6]
    assert re.search(r"^- growth exponent of the step from 2 to 3 tasks: .* goal <= 0.85: (met|missed)$", printed, re.M)


def test_the_exponent_is_the_slope_of_the_logarithms() -> None:
    found = scaling_tasks.Found([1.0], {OURS: [2.0], scaling_tasks.PLAIN: [2.0]})
    many = scaling_tasks.Found([16.0], {OURS: [2 * 16**0.5], scaling_tasks.PLAIN: [4.0]})
    table = scaling_tasks.report({8: found, 128: many})
    assert [goal.found for goal in table.goals] == [Spread(0.5, 0.5, 0.5)]
    assert [note.partition(":")[2].split()[0] for note in table.notes] == ["0.250", "1.000"]
    assert table.rows[1][4:] == [Spread.of([2 / 4]), Spread.of([4 / 16])]
    assert not scaling_tasks.report({8: found}).goals


# ------------------------------------------------------------------------------------------------------------ processes
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_out_all_rows(world: int) -> None:
    batch = tiny(2).batches()[0]
    parts = [part_of(batch, rank, world) for rank in range(world)]
    for found, whole in (
        (torch.cat([part["inputs"] for part in parts]), batch["inputs"]),
        (torch.cat([part["targets"]["t1"] for part in parts]), batch["targets"]["t1"]),
    ):
        assert sorted(found.flatten().tolist()) == sorted(whole.flatten().tolist())


@pytest.mark.parametrize("method", METHODS)
def test_one_process_runs_every_method(method: str) -> None:
    clock, cpu = scaling_processes.run_block(0, 1, 0, tiny(2), METHODS[method], steps=1)
    assert clock > 0
    assert cpu >= 0


def test_two_processes_run_together(tmp_path: Path) -> None:
    programs.run("tests.benchmarks.on_two", str(tmp_path), world=2)
    for rank in range(2):
        lines = (tmp_path / str(rank)).read_text().splitlines()
        assert [line.partition(":")[0] for line in lines] == [RAW, "UncertaintyWeighting", "MGDA"]


@pytest.mark.slow  # two fresh processes that import everything
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    scaling_processes.main(["W1_T8", "--methods", RAW, "MGDA", "--rounds", "1", "--steps", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\(\d", line)]
    assert [row.split(" | ")[0] for row in rows] == [f"| {RAW}", "| MGDA"]


def test_the_slower_process_counts_and_goals_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_pair: object, world: int, *_block: object) -> list[tuple[float, float]]:
        return [(3.0, 2.0)] if world == 1 else [(1.0, 1.5), (2.0, 1.0)]

    monkeypatch.setattr(scaling_processes.Pair, "run", run)
    monkeypatch.setattr(scaling_processes.Pair, "__enter__", lambda pair: pair)
    monkeypatch.setattr(scaling_processes.Pair, "__exit__", lambda *_: None)
    found = scaling_processes.measure("W3", [RAW, "DWA", "MGDA"], rounds=1, steps=1)
    table = scaling_processes.report("W3", found)
    assert table.rows[0] == [RAW, *(Spread.of([value]) for value in (3e3, 2e3, 1.5, 1.25))]
    assert [goal.met for goal in table.goals] == [False, True]
    assert table.goals[0].at_least
    assert not scaling_processes.report("W1_T8", found).goals
    assert {*WORKLOADS} >= {*scaling_processes.GOALS}
