"""Fewer cases that still bring everything together that matters, such as every pair; the others run with `-m slow`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations
from typing import Any, TypeVar

import pytest

Case = TypeVar("Case")


def pairs_of(*factors: Hashable) -> set[Hashable]:
    """Return all pairs of a case's factors, each factor with its place."""
    return set(combinations(enumerate(factors), 2))


def cover(cases: Iterable[Case], goals: Callable[[Case], set[Hashable]]) -> list[int]:
    """Choose cases, by their places, that together reach every goal that any of them reaches: the best one, again."""
    reached = {index: goals(case) for index, case in enumerate(cases)}
    missing = set().union(*reached.values())
    chosen: list[int] = []
    while missing:
        best = max(reached, key=lambda index: len(reached[index] & missing))
        missing -= reached.pop(best)
        chosen.append(best)
    return sorted(chosen)


def covering(cases: Sequence[tuple[Any, ...]], goals: Callable[[tuple[Any, ...]], set[Hashable]]) -> list[Any]:
    """Return all cases as parameters of a test; those that the others make needless are slow."""
    chosen = set(cover(cases, goals))
    marks = [() if index in chosen else pytest.mark.slow for index in range(len(cases))]
    return [
        pytest.param(*case, marks=mark, id="-".join(map(str, case))) for case, mark in zip(cases, marks, strict=True)
    ]


def some_of(cases: Iterable[Any], every: int) -> list[Any]:
    """Return all cases as parameters of a test; all but every so many are slow."""
    listed = [case if isinstance(case, tuple) else (case,) for case in cases]
    return thinned([pytest.param(*case, id="=".join(map(_shown, case))) for case in listed], every)


def thinned(parameters: Iterable[Any], every: int, first: int = 0) -> list[Any]:
    """Return a test's parameters, whatever their marks, of which all but every so many are slow.

    Args:
        parameters: of :func:`pytest.param`.
        every: one of how many is tried by default.
        first: how many to count on from, so that several lists do not leave out the same.
    """
    return [
        pytest.param(*one.values, marks=[pytest.mark.slow] * bool((index + first) % every), id=one.id)
        for index, one in enumerate(parameters)
    ]


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else str(value)
