"""Which tasks to train together: the split of tasks into a few networks with the most help for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Split = list[list[int]]

_EXACT = 9  # tasks, up to which all splits are looked at: 21147 of them
_MARGIN = 0.05  # of the best score: a further network has to raise it by more


def best_split(affinity: Matrix, networks: int) -> tuple[Split, float]:
    """Return the split of T tasks into at most so many networks, and its score.

    Task j is helped by the mean of :math:`Z_{ij}` over the other tasks i of its network, by 0 if it is alone. The score
    is the mean over tasks of the help that they get. Of splits into different numbers of networks, one with more is
    taken only if it scores better by 5 %.

    Up to 9 tasks all splits are looked at. For more, each task is first put into the network where it scores best, and
    then tasks are moved, and pairs swapped, as long as the score rises: from T starts, the best of which is taken.

    Args:
        affinity: (T, T), row i onto column j; the diagonal is not looked at, and nan (no measurement) counts as 0.
        networks: the largest number of networks, at least 1.
    """
    z = np.nan_to_num(np.asarray(affinity, dtype=np.float64))
    tasks = len(z)
    most = max(1, min(networks, tasks))
    best: dict[int, tuple[float, Split]] = {}
    candidates = _partitions(tasks, most) if tasks <= _EXACT else _searched(z, most)
    for split in candidates:
        value = score(z, split)
        if len(split) not in best or value > best[len(split)][0]:
            best[len(split)] = (value, split)
    highest = max(value for value, _ in best.values())
    enough = highest - _MARGIN * abs(highest)
    value, split = next(best[number] for number in sorted(best) if best[number][0] >= enough)
    return sorted(sorted(members) for members in split), value


def score(affinity: Matrix, split: Sequence[Sequence[int]]) -> float:
    """Return the mean over tasks of the help that each gets in its network."""
    total = 0.0
    for members in split:
        if len(members) > 1:
            block = affinity[np.ix_(members, members)]
            total += float(block.sum() - np.trace(block)) / (len(members) - 1)
    return total / len(affinity)


def _partitions(tasks: int, most: int) -> Iterator[Split]:
    """Yield all splits of the tasks into at most so many groups."""
    if not tasks:
        yield []
        return
    for split in _partitions(tasks - 1, most):
        for place in range(len(split)):
            yield [[*group, tasks - 1] if index == place else group for index, group in enumerate(split)]
        if len(split) < most:
            yield [*split, [tasks - 1]]


def _searched(z: Matrix, most: int) -> Iterator[Split]:
    """Yield good splits into 1, 2, ... groups, of too many tasks to try all."""
    tasks = len(z)
    yield [list(range(tasks))]
    for number in range(2, most + 1):
        for first in range(tasks):
            order = [(first + step) % tasks for step in range(tasks)]
            yield _climbed(z, _greedy(z, order, number))


def _greedy(z: Matrix, order: Sequence[int], number: int) -> Split:
    """Start with tasks that help each other least, and put each other one where the score is best."""
    seeds = [order[0]]
    while len(seeds) < number:
        rest = [task for task in order if task not in seeds]
        seeds.append(min(rest, key=lambda task: max(z[task, seed] + z[seed, task] for seed in seeds)))
    split = [[seed] for seed in seeds]
    for task in (task for task in order if task not in seeds):
        tried = [[[*g, task] if index == place else g for index, g in enumerate(split)] for place in range(number)]
        split = max(tried, key=lambda one: score(z, one))
    return split


def _climbed(z: Matrix, split: Split) -> Split:
    """Move single tasks, and swap pairs, as long as that raises the score."""
    value = score(z, split)
    while True:
        better = max(_neighbours(split), key=lambda one: score(z, one), default=split)
        if score(z, better) <= value + 1e-12:
            return split
        split, value = better, score(z, better)


def _neighbours(split: Split) -> Iterator[Split]:
    """Yield splits into as many groups that differ by one move or one swap."""
    for a, b in combinations(range(len(split)), 2):
        for source, target in ((a, b), (b, a)):
            for task in split[source] if len(split[source]) > 1 else ():
                moved = [list(group) for group in split]
                moved[source].remove(task)
                moved[target].append(task)
                yield moved
        for one in split[a]:
            for other in split[b]:
                swapped = [list(group) for group in split]
                swapped[a][swapped[a].index(one)], swapped[b][swapped[b].index(other)] = other, one
                yield swapped
