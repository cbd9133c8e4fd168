"""The gradient-method benchmark runs; its loops and numbers are what it says. How fast anything is, it says itself."""

from __future__ import annotations

import math
import re
import sys
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks import gradient_loops, gradient_methods, loops, memory
from benchmarks.gradient_loops import EQUAL, FEATURES, FORWARD, RAW, rival
from benchmarks.timing import TimedBatches, Times
from benchmarks.workloads import Workload
from mtl_lightning import balancing
from mtl_lightning.architectures import MLP, MLPHead
from mtl_lightning.balancing.rows import GradientBalancer

TABLE = Workload((3,), 6, 3, partial(MLP, hidden=[5]), partial(MLPHead, hidden=[2]))
METHODS = gradient_loops.names()
OF_EACH_KIND = (EQUAL, RAW, FORWARD, "MGDA", f"MGDA{FEATURES}", rival("MGDA"), "UPGrad", rival("UPGrad"))
RATIO = re.compile(r"\d+\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\)")
MEBIBYTES = 1 << 20


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gradient_loops.CASES, "W1_T8", TABLE)
    gradient_methods.main(["W1_T8", "--methods", "DWA", "MGDA", f"MGDA{FEATURES}", "--rounds", "1", "--no-memory"])
    printed = capsys.readouterr().out
    assert "\n### W1_T8: 3 tasks, 1 rounds; a step with equal weights " in printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if re.match(r"\| .*\(", line)]
    assert [row[0] for row in rows] == [RAW, FORWARD, "DWA", "MGDA", f"MGDA{FEATURES}"]
    assert [len(RATIO.findall(" ".join(row))) for row in rows] == [1, 1, 1, 3, 1]
    goals = re.findall(r"^- (.*): \d+\.\d{3}.*, goal <= (\d\.\d\d): (?:met|missed)$", printed, re.MULTILINE)
    assert goals == [
        (f"MGDA to {EQUAL}", "2.35"),
        (f"MGDA{FEATURES} to {EQUAL}", "1.12"),
        ("MGDA to torchjd's", "0.97"),
        ("geometric mean of 1 ratios to torchjd's", "0.97"),
    ]


@pytest.mark.parametrize("arguments", [["W9"], ["W2", "--methods", "PCGrad", "SGD"]], ids=["workload", "method"])
def test_what_is_unknown_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gradient_methods.main(arguments)
    assert re.search(rf"expected \w+ among .*, found {arguments[-1]}", capsys.readouterr().err)


def test_every_exported_gradient_method_takes_part() -> None:
    exported = [getattr(balancing, name) for name in balancing.__all__]
    found = {cls.__name__ for cls in exported if isinstance(cls, type) and issubclass(cls, GradientBalancer)}
    assert found <= {*METHODS} | {"GradientBalancer", "GramianBalancer"}
    assert {*gradient_loops.RIVALS} <= {*METHODS}


@pytest.mark.filterwarnings("ignore")  # of the rivals' solvers, and Lightning's advice
@pytest.mark.parametrize(
    "name",
    [
        name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.slow)
        for name in gradient_loops.loops(TABLE, METHODS).all
    ],
)
def test_every_loop_takes_its_steps_from_the_clocked_batches(name: str) -> None:
    batches = TimedBatches(TABLE.batches(), steps=2, warmup=1)
    gradient_loops.loops(TABLE, METHODS).all[name](batches)
    assert batches.seconds > 0


def test_the_module_and_torchjd_start_from_the_same_weights() -> None:
    module = loops.make_module(TABLE, balancing.Balancer)
    torch.manual_seed(0)
    network = TABLE.network()
    for mine, theirs in zip(module.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------------- the numbers
def made(name: str, ratio: float, floor: float) -> gradient_methods.Case:
    """A case in which a step with equal weights takes ``floor`` seconds."""
    found = gradient_loops.loops(gradient_loops.CASES[name], ["MGDA"])
    ratios = {"MGDA": [ratio], rival("MGDA"): [2 * ratio], RAW: [0.9], FORWARD: [0.4]}
    return gradient_methods.Case(found, Times([floor], ratios), {EQUAL: 100.0, "MGDA": 180.0})


def test_goals_are_judged() -> None:
    table = gradient_methods.report("W1_T32", made("W1_T32", 3.5, 0.1))
    assert [*map(str, table.goals)] == [
        f"MGDA to {EQUAL}: 3.500 (3.500 to 3.500), goal <= 2.8: missed",
        "MGDA to torchjd's: 0.500 (0.500 to 0.500), goal <= 0.97: met",
        f"memory of MGDA to {EQUAL}: 1.800, goal <= 1.7: missed",
    ]
    assert table.rows[0][4:] == [100.0, 1.0, None, None]
    assert table.rows[-1][4:] == [180.0, 1.8, None, None]


def test_the_backward_is_what_is_left_of_a_step() -> None:
    few, many = made("W1_T8", 2.0, 0.1), made("W1_T128", 3.0, 1.0)
    assert few.backward("MGDA") == pytest.approx((1.0 + 0.5) * 0.1)
    exponent = math.log(2.5 / 0.15) / math.log(16)
    assert [*map(str, gradient_methods.summary({"W1_T8": few, "W1_T128": many}).goals)] == [
        "geometric mean of 2 ratios to torchjd's: 0.500, goal <= 0.97: met",
        f"growth exponent of MGDA's backward: {exponent:.3f}, goal <= 1.15: met",
    ]


# ----------------------------------------------------------------------------------------------------------- the memory
def hold(mebibytes: int) -> Tensor:
    """Write to so much memory."""
    return torch.ones(mebibytes * MEBIBYTES, dtype=torch.uint8)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_growth_is_the_peak_over_what_was_there() -> None:
    found = memory.peak_growth(partial(hold, 200))
    assert found is not None
    assert 200 <= found < 230
