"""The step-time benchmark runs, and computes its ratios rightly; how fast anything is, it says itself."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import loops, paired_steps, step_time, timing
from benchmarks.records import Spread
from benchmarks.workloads import BATCHES, WORKLOADS, Workload
from mtl_lightning.architectures import MLP, LeNet, Linear, MLPHead
from tests.programs import start

TABLE = Workload((3,), 4, 2, partial(MLP, hidden=[5]), partial(MLPHead, hidden=[2]))
PICTURES = Workload((1, 12, 12), 2, 3, partial(LeNet, channels=(2, 2), width=4), Linear, classes=3)
RATIO = re.compile(r"\d+\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\)")


def test_the_command_prints_a_table() -> None:
    (program,) = start("benchmarks.step_time", "W1_T8", "--rounds", "1", "--steps", "1", "--warmup", "1")
    printed = program.stdout.read()
    assert program.wait(timeout=300) == 0, program.errors()
    assert "\n### W1_T8: 8 tasks, 1 rounds; a step of the floor " in printed
    rows = [line for line in printed.splitlines() if line.startswith("| ") and RATIO.search(line)]
    names = list(loops.variants(WORKLOADS["W1_T8"]))
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == names[1:]
    assert all(len(RATIO.findall(row)) == 2 for row in rows)
    goals = [line for line in printed.splitlines() if line.startswith("- ")]
    assert [re.findall(r"goal <= (\d\.\d\d): (?:met|missed)$", line) for line in goals] == [
        ["0.97"],
        ["1.05"],
        ["1.04"],
    ]


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        step_time.main(["W9"])
    assert "expected workloads among W1_T8, W1_T32, W2, W3, found W9" in capsys.readouterr().err


@pytest.mark.parametrize("workload", [TABLE, PICTURES], ids=["table", "pictures"])
@pytest.mark.parametrize("name", loops.variants(TABLE))
def test_every_loop_takes_its_steps_from_the_clocked_batches(workload: Workload, name: str) -> None:
    batches = timing.TimedBatches(workload.batches(), steps=2, warmup=1)
    loops.variants(workload)[name](batches)
    assert batches.seconds > 0


@pytest.mark.parametrize("workload", [TABLE, PICTURES], ids=["table", "pictures"])
def test_the_module_and_the_loops_train_the_same_weights(workload: Workload) -> None:
    module = loops.make_module(workload)
    torch.manual_seed(0)
    network = workload.network()
    learned = list(module.balancer.parameters())
    ours = [p for p in module.parameters() if all(p is not s for s in learned)]
    assert len(learned) == workload.num_tasks
    for mine, theirs in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    batch = workload.batches()[0]
    by_hand = workload.losses(network(batch["inputs"]), batch["targets"])
    for (task, output), loss in zip(module(batch["inputs"]).items(), by_hand, strict=True):
        mean = module.tasks[task].loss(output, batch["targets"][task]) / workload.rows
        torch.testing.assert_close(mean, loss)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_have_their_sizes(name: str) -> None:
    workload = WORKLOADS[name]
    batches = workload.batches()
    assert len(batches) == BATCHES
    outputs = workload.network()(batches[0]["inputs"][:2])
    assert [tuple(output.shape) for output in outputs.values()] == [(2, workload.classes or 1)] * workload.num_tasks
    assert all(target.shape == (workload.rows,) for target in batches[0]["targets"].values())


# ------------------------------------------------------------------------------------------------------------ the clock
def test_only_the_steps_after_the_warm_up_are_timed() -> None:
    now = 0.0
    batches = timing.TimedBatches(["a", "b"], steps=2, warmup=3, clock=lambda: now)
    seen = []
    for cost, batch in zip([100.0, 100.0, 100.0, 2.0, 4.0, 100.0], batches, strict=True):
        now += cost
        seen.append(batch)
    assert seen == ["a", "b", "a", "b", "a", "b"]
    assert batches.seconds == 3.0


def test_a_block_is_compared_with_the_floor_around_it() -> None:
    costs: dict[str, Any] = {"floor": iter([1.0, 3.0, 5.0, 5.0, 5.0]), "x": iter([4.0, 10.0]), "y": iter([8.0, 5.0])}
    order = []

    def variant(name: str) -> timing.Variant:
        def run(batches: timing.TimedBatches) -> None:
            order.append(name)
            batches.seconds = next(costs[name])

        return run

    variants = {name: variant(name) for name in ("x", "y")}
    times = timing.interleave(variant("floor"), variants, [None], rounds=2, steps=1, warmup=1)
    assert order == ["floor", "x", "floor", "y", "floor", "y", "floor", "x", "floor"]
    assert times.ratios == {"x": [4 / 2, 10 / 5], "y": [8 / 4, 5 / 5]}
    assert times.to_floor("y") == Spread(1.25, 1.5, 1.75)
    assert times.to("x", "y").median == 1.5


def test_one_thread_is_put_back() -> None:
    before = torch.get_num_threads()
    with timing.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_pairs_of_steps_are_timed_apart() -> None:
    """A clock that tells how often it was asked: a raw step lies between two looks, and so does a step of the loop."""
    ticks = iter(range(1000))
    batches = paired_steps.Paired(TABLE, steps=3, clock=lambda: float(next(ticks) ** 2))
    loops.variants(TABLE)[loops.OURS](batches)
    assert len(batches.raw) == len(batches.own) == 3
    looks = [(1 + 3 * index, 2 + 3 * index, 3 + 3 * index) for index in range(len(batches))]
    counted = range(batches.warmup, batches.warmup + batches.steps)
    assert batches.raw == [looks[i][2] ** 2 - looks[i][1] ** 2 for i in counted]
    assert batches.own == [looks[i + 1][0] ** 2 - looks[i][2] ** 2 for i in counted]
    table = paired_steps.report("W2", {loops.OURS: batches})
    assert table.rows[0][0] == loops.OURS
    assert [goal.limit for goal in table.goals] == [1.015]
