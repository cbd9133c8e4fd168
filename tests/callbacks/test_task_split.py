"""Splits of tasks by matrices whose best split is known."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_lightning.callbacks.task_split import best_split, score


def planted(*sizes: int, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, list[list[int]]]:
    """Affinities of 1 within groups and -1 between them, with noise, of tasks in no order."""
    random = np.random.default_rng(seed)
    order = random.permutation(sum(sizes))
    ends = np.cumsum(sizes)
    groups = [sorted(order[end - size : end].tolist()) for size, end in zip(sizes, ends, strict=True)]
    z = np.full((len(order), len(order)), -1.0)
    for members in groups:
        z[np.ix_(members, members)] = 1.0
    return z + noise * random.normal(size=z.shape), sorted(groups)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4), (1, 3), (2, 3, 4), (5, 6), (4, 5, 7), (1, 2, 9)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_planted_groups_are_found(sizes: tuple[int, ...], seed: int) -> None:
    """By looking at all splits up to 9 tasks, and by a search beyond."""
    z, groups = planted(*sizes, seed=seed)
    found, value = best_split(z, len(sizes))
    assert found == groups
    assert value == pytest.approx(score(z, groups))


def test_the_score_is_worked_out_by_hand() -> None:
    z = np.array([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, 6.0, 9.0]])
    assert score(z, [[0, 1, 2]]) == pytest.approx(((3 + 5) / 2 + (1 + 6) / 2 + (2 + 4) / 2) / 3)
    assert score(z, [[0, 2], [1]]) == pytest.approx((5 + 2) / 3)


def test_a_further_network_has_to_be_worth_it() -> None:
    rng = np.random.default_rng(0)
    alike = 1 + 0.01 * rng.normal(size=(6, 6))
    assert best_split(alike, 3)[0] == [[0, 1, 2, 3, 4, 5]]
    z, groups = planted(3, 3)
    assert best_split(z, 6)[0] == groups  # and not more, which score no better
    assert best_split(z, 1)[0] == [[0, 1, 2, 3, 4, 5]]


def test_tasks_that_only_hurt_are_alone() -> None:
    assert best_split(-np.ones((3, 3)), 3)[0] == [[0], [1], [2]]


def test_what_was_never_measured_counts_as_neither_help_nor_harm() -> None:
    z = np.array([[np.nan, np.nan, 1.0], [np.nan, np.nan, -1.0], [1.0, -1.0, np.nan]])
    assert best_split(z, 2)[0] == [[0, 2], [1]]
