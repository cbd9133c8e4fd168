"""Draws cases and runs them: the same ones at every run, and the simplest that fails is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MOST_LINES = 6
"""Of a message."""


def sizes(few: int, many: int) -> pytest.MarkDecorator:
    """Let a test take ``number``: of cases by default, and under ``slow``."""
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=pytest.mark.slow)])


def for_each(number: int, case: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check that many cases."""
    chosen = settings(
        max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    chosen(given(case)(check))()
