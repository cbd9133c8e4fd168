"""The solver benchmark runs, and its residuals tell right weights from wrong ones; it says itself what is fast."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import solvers
from benchmarks.records import Spread
from mtl_lightning.balancing import MGDA

TIME = re.compile(r"\d+\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\)")


@pytest.mark.filterwarnings("ignore")  # of the rivals' solvers
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    solvers.main(["3", "--rounds", "2", "--block", "0.0001"])
    lines = capsys.readouterr().out.splitlines()
    assert "### 3 tasks: milliseconds a call, median (quartiles)" in lines
    rows = [line.strip("| ").split(" | ") for line in lines if TIME.search(line)]
    assert [row[0] for row in rows] == [*solvers.METHODS]
    for _, ours, theirs, ratio, residual in rows:
        assert TIME.fullmatch(ours)
        assert (TIME.fullmatch(theirs) is not None) == (ratio != "")
        assert float(residual) < 1e-6
    assert re.fullmatch(r"- largest residual \(\w+\): \S+, goal <= 1e-06: met", lines[-1])


@pytest.mark.parametrize("name", solvers.METHODS)
def test_residuals_tell_right_from_wrong(name: str) -> None:
    method = solvers.METHODS[name]
    rows = torch.randn(5, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    balancer = method.ours(5)
    weights = balancer.task_weights(rows @ rows.T, torch.ones(5).double(), torch.ones(5, dtype=torch.bool))
    wrong = weights * torch.tensor([1.0, 1.1, 1.0, 0.9, 1.0], dtype=torch.float64)
    assert method.residual(balancer, rows, weights) < 1e-6
    assert method.residual(balancer, rows, wrong) > 1e-3


def test_what_is_not_installed_is_said() -> None:
    def missing(tasks: int) -> None:
        raise ImportError("no such solver\ninstall it")

    row = solvers.measure(solvers.Method(MGDA, missing, solvers.nearness), 2, rounds=1, block=0.0001)
    assert (row.theirs, row.ratio, row.missing) == (None, None, "no such solver")
    assert solvers.report(2, {"MGDA": row}).rows[0][2:4] == ["no such solver", None]


def test_goals_are_judged() -> None:
    row = solvers.Row(Spread(1.0, 11.0, 12.0), None, None, residual=1e-5)
    assert [*map(str, solvers.report(128, {"NashMTL": row}).goals)] == [
        "NashMTL: 11.00 (1.00 to 12.00) ms, goal <= 10 ms: missed",
        "largest residual (NashMTL): 1e-05, goal <= 1e-06: missed",
    ]


def test_a_number_of_tasks_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        solvers.main(["0"])
    assert "expected a whole number of at least 1, found '0'" in capsys.readouterr().err
