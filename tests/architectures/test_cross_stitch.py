from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import CrossStitch, LeNet
from mtl_lightning.types import TensorSpec
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, put, times, values_of

TASKS = ["a", "b"]


def test_the_next_stages_read_combinations() -> None:
    network = CrossStitch(NUMBER, TASKS, encoder=one_after_the_other(times(1, 10), times(2, 100)))
    expected = {"a": 10 * (0.9 * 1 + 0.1 * 2), "b": 100 * (0.1 * 1 + 0.9 * 2)}
    assert values_of(network(ONE, TASKS)) == pytest.approx(expected)


def test_every_joint_has_a_matrix_and_none_is_left_over() -> None:
    network = CrossStitch(NUMBER, TASKS, encoder=one_after_the_other(times(1, 10, 7), times(2, 100, 11)))
    put(network.get_parameter("stitches.1.rows.0"), [0, 1])  # a's last stage reads b's stream alone
    put(network.get_parameter("stitches.1.rows.1"), [2, 0])
    z = (0.9 * 1 + 0.1 * 2) * 10, (0.1 * 1 + 0.9 * 2) * 100
    assert values_of(network(ONE, TASKS)) == pytest.approx({"a": 7 * z[1], "b": 11 * 2 * z[0]})
    assert len(network.stitches) == 2


def test_three_tasks_start_with_rows_that_sum_to_one() -> None:
    network = CrossStitch(NUMBER, ["a", "b", "c"], encoder=times(1, 1), alpha=0.8)
    matrix = torch.stack([network.get_parameter(f"stitches.0.rows.{i}") for i in range(3)])
    torch.testing.assert_close(matrix, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]))


def test_alpha_one_is_single_task_networks_at_the_start() -> None:
    network = CrossStitch(NUMBER, TASKS, encoder=one_after_the_other(times(3, 5), times(4, 6)), alpha=1.0)
    assert values_of(network(ONE, TASKS)) == {"a": 15.0, "b": 24.0}


def test_per_channel_every_channel_has_a_matrix() -> None:
    def encoder(_: object) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Identity())

    network = CrossStitch(TensorSpec((1, 3, 5)), TASKS, encoder=encoder, per_channel=True)
    put(network.get_parameter("stitches.0.rows.0"), [[1.0, 0.0], [0.0, 2.0]])  # first channel: a's; second: twice b's
    inputs = torch.randn(4, 1, 3, 5)
    own, other = (network.get_submodule(f"columns.{task}.0")(inputs) for task in TASKS)
    expected = torch.stack([own[:, 0], 2 * other[:, 1]], dim=1)
    torch.testing.assert_close(network(inputs, ["a"]).per_task["a"], expected)


def test_a_row_per_task_of_the_last_joint_and_the_last_stage_are_its_own() -> None:
    network = CrossStitch(TensorSpec((1, 12, 12)), TASKS, encoder=lambda spec: LeNet(spec, channels=(2, 3), width=4))
    declared = network.task_parameters()
    assert declared["b"][-1] is network.get_parameter("stitches.1.rows.1")
    assert {id(p) for p in declared["a"][:-1]} == {id(p) for p in network.get_submodule("columns.a.2").parameters()}


def test_one_task_has_nothing_to_stitch() -> None:
    assert values_of(CrossStitch(NUMBER, ["a"], encoder=times(3, 5))(ONE, ["a"])) == {"a": 15.0}
