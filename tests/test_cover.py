"""The cover of pairs leaves no pair out, and is small."""

from __future__ import annotations

from itertools import product

from tests.cover import cover, covering, pairs_of


def test_every_pair_is_there_in_few_cases() -> None:
    cases = list(product("abc", range(3), [True, False], "xy"))  # 36; the first two factors have 9 pairs
    pairs = [pairs_of(*case) for case in cases]
    chosen = cover(cases, lambda case: pairs_of(*case))
    assert set().union(*(pairs[index] for index in chosen)) == set().union(*pairs)
    assert 9 <= len(chosen) <= 12


def test_pairs_that_never_occur_are_not_asked_for() -> None:
    assert cover([("a", 1), ("b", 2), ("a", 1)], lambda case: pairs_of(*case)) == [0, 1]


def test_the_others_are_slow() -> None:
    parameters = covering([("a", 1), ("b", 1), ("b", 1)], lambda case: pairs_of(*case))
    assert [[mark.name for mark in parameter.marks] for parameter in parameters] == [[], [], ["slow"]]
    assert [parameter.id for parameter in parameters] == ["a-1", "b-1", "b-1"]
