"""The primary task by index and by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_lightning.balancing.tools.primary import Primary
from mtl_lightning.types import ConfigurationError


def test_by_index_and_by_name() -> None:
    assert Primary(2, 3, "Gate").index == 2
    named = Primary("b", 3, "Gate")
    named.bind(["a", "b", "c"])
    assert named.index == 1


def test_among_the_present() -> None:
    primary = Primary(1, 3, "Gate")
    assert primary.among(torch.tensor([True, True, True]), 3).tolist() == [False, True, False]
    assert primary.among(torch.tensor([False, True, True]), 2).tolist() == [True, False]
    assert primary.among(torch.tensor([True, False, True]), 2).tolist() == [False, False]


@pytest.mark.parametrize("task", [3, -1, True, 0.5, None])
def test_no_index_of_a_task_is_refused(task: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"Gate: expected `primary` .* from 0 to 2, found {task}"):
        Primary(task, 3, "Gate")


def test_unknown_and_unbound_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"one of the tasks \['a', 'b'\], found 'x'"):
        Primary("x", 2, "Gate").bind(["a", "b"])
    with pytest.raises(ConfigurationError, match="Gate: expected `bind` to tell which task 'a' is"):
        _ = Primary("a", 2, "Gate").index
