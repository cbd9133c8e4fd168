"""Preferences: equal shares of those present, or constants."""

from __future__ import annotations

import pytest
import torch

from mtl_lightning.balancing.tools.preferences import Preferences
from mtl_lightning.types import ConfigurationError

PRESENT = torch.tensor([True, False, True])
LIKE = torch.zeros(2, 2, dtype=torch.float64)


def test_equal_shares_of_those_present() -> None:
    assert Preferences(3, None, "X").among(PRESENT, LIKE).tolist() == [0.5, 0.5]


def test_constants_stay_as_they_are() -> None:
    preferences = Preferences(3, [1.0, 5.0, 0.0], "X")
    assert preferences.among(PRESENT, LIKE).tolist() == [1.0, 0.0]
    assert preferences.among(~PRESENT | PRESENT, torch.zeros(3, 3)).tolist() == [1.0, 5.0, 0.0]
    assert not preferences.state_dict()


@pytest.mark.parametrize(
    "values", [[], [1.0, 2.0], [1.0, 2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, float("inf")], [1.0, 2.0, float("nan")]]
)
def test_others_are_refused(values: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="X: expected `pref_vector` to be 3 finite numbers"):
        Preferences(3, values, "X")
