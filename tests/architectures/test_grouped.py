from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import GroupedNetworks, SharedBottom, SingleTaskNetworks
from mtl_lightning.types import ConfigurationError
from tests.architectures.scalars import NUMBER, ONE, one_after_the_other, times, values_of
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of

TASKS = ["a", "b", "c"]


def test_tasks_of_a_group_share_a_network() -> None:
    encoders = one_after_the_other(times(2), times(3))
    network = GroupedNetworks(NUMBER, TASKS, groups={"first": ["a", "c"], "second": ["b"]}, encoder=encoders)
    assert values_of(network(ONE, TASKS)) == {"a": 2.0, "b": 3.0, "c": 2.0}
    assert list(network.task_parameters()) == ["b"]  # alone in its group; the other encoder is shared
    assert list(network.last_shared()) == [network.encoders["first"]]


def test_only_the_networks_of_the_tasks_asked_for_are_run() -> None:
    network = GroupedNetworks(NUMBER, TASKS, groups={"x": ["a", "c"], "y": ["b"]}, encoder=nn.Linear(1, 2))
    calls: list[str] = []
    for group, encoder in network.encoders.items():
        encoder.register_forward_hook(lambda *_, group=group: calls.append(group))
    assert {*network(ONE, ["c", "a"]).per_task} == {"a", "c"}
    assert calls == ["x"]


@pytest.mark.parametrize(
    ("groups", "other"),
    [
        (None, SharedBottom),
        ({"one": ["number"], "two": ["vector"], "three": ["kind"]}, SingleTaskNetworks),
    ],
)
def test_its_ends_are_all_shared_and_nothing_shared(groups: Any, other: Any) -> None:
    """The same weights come of the same updates."""
    grouped, plain = make_module(architecture=partial(GroupedNetworks, groups=groups)), make_module(architecture=other)
    for part, twin in zip(grouped.parameters(), plain.parameters(), strict=True):
        assert torch.equal(part, twin)
    for module in (grouped, plain):
        fit(module, make_batches(4))
    found = dict(enumerate(weights_of(grouped).values()))
    expected = dict(enumerate(weights_of(plain).values()))
    assert_same({str(n): t for n, t in found.items()}, {str(n): t for n, t in expected.items()})


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"x": ["a", "b"]}, r"\['c'\] in none"),
        ({"x": ["a", "b", "c"], "y": ["a"]}, "'a' in 'x' and 'y'"),
        ({"x": ["a", "b", "c"], "y": []}, "found none in 'y'"),
        ({"x": ["a", "b", "d"]}, r"`groups.x`: expected one of .*, found 'd'"),
        ({"x.y": ["a", "b", "c"]}, "expected other names in `groups`"),
        ({}, "in none"),
    ],
)
def test_groups_that_are_no_split_of_the_tasks_are_refused(groups: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        GroupedNetworks(NUMBER, TASKS, groups=groups)
