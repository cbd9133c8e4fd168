"""Batches of several datasets: which come when, and that an interrupted epoch goes on with the very next one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from mtl_lightning.data import (
    PerTaskLoader,
    ProportionalSampling,
    ResumableLoader,
    RoundRobinSampling,
    Sampling,
    TemperatureSampling,
    TensorRows,
    UniformSampling,
)
from mtl_lightning.data.per_task.loader import Mode
from mtl_lightning.types import ConfigurationError

SIZES = {"a": 22, "b": 10, "c": 3}  # rows, which make 6, 3 and 1 batches of 4
POLICIES: list[Sampling] = [
    RoundRobinSampling(),
    UniformSampling(),
    ProportionalSampling(),
    TemperatureSampling(2.0),
]


def rows(name: str) -> TensorRows:
    """Rows whose input says which they are: a has 0, 1, ..., b has 100, 101, ..."""
    first = 100.0 * list(SIZES).index(name)
    return TensorRows(torch.arange(first, first + SIZES[name]).unsqueeze(1), {"y": torch.zeros(SIZES[name])})


def loaders(shuffle: bool = True) -> dict[str, ResumableLoader]:
    return {name: ResumableLoader(rows(name), batch_size=4, shuffle=shuffle, seed=1) for name in SIZES}


def read(batch: Any) -> list[float] | None:
    """The rows of a batch."""
    return None if batch is None else batch["inputs"][:, 0].tolist()


def seen(steps: Iterator[Any]) -> list[dict[str, list[float] | None]]:
    return [{name: read(batch) for name, batch in step.items()} for step in steps]


def epoch(loader: PerTaskLoader, number: int) -> list[dict[str, list[float] | None]]:
    loader.set_epoch(number)
    return seen(iter(loader))


# ------------------------------------------------------------------------------------------------------------ the modes
@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle", "max_size"])
def test_modes_are_those_of_lightning(mode: Mode) -> None:
    combined = CombinedLoader(loaders(shuffle=False), mode)
    expected = [item for item, _, _ in combined]
    mine = PerTaskLoader(loaders(shuffle=False), mode)
    assert epoch(mine, 0) == seen(iter(expected))
    assert len(mine) == len(expected)


def test_sequential_goes_through_one_dataset_after_the_other() -> None:
    mine = PerTaskLoader(loaders(shuffle=False), "sequential")
    found = epoch(mine, 0)
    assert [list(step) for step in found] == [["a"]] * 6 + [["b"]] * 3 + [["c"]]
    rows_seen = chain.from_iterable(batch or [] for step in found for batch in step.values())
    assert list(rows_seen) == [*range(22), *range(100, 110), *range(200, 203)]


def test_a_dataset_that_begins_again_does_so_in_a_new_order() -> None:
    found = epoch(PerTaskLoader(loaders()), 0)
    passes = [list(chain.from_iterable(step["b"] or [] for step in found[start : start + 3])) for start in (0, 3)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(100, 110))
    assert passes[0] != passes[1]


def test_every_epoch_has_an_order_of_its_own_unless_told_otherwise() -> None:
    assert epoch(PerTaskLoader(loaders()), 0) != epoch(PerTaskLoader(loaders()), 1)
    fixed = PerTaskLoader(loaders(), sampling=UniformSampling(), reshuffle=False)
    assert epoch(fixed, 0) == epoch(fixed, 1)


# --------------------------------------------------------------------------------------------------------- the policies
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_policy_takes_one_dataset_a_step_by_seed_and_epoch_alone(policy: Sampling) -> None:
    torch.manual_seed(0)
    first = epoch(PerTaskLoader(loaders(), sampling=policy, seed=3), 5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    loader = PerTaskLoader(loaders(), sampling=policy, seed=3)
    assert epoch(loader, 5) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == len(loader) == 10
    assert all(len(step) == 1 for step in first)
    if not isinstance(policy, RoundRobinSampling):
        assert [list(s) for s in epoch(loader, 6)] != [list(s) for s in first]
        other = PerTaskLoader(loaders(), sampling=policy, seed=4)
        assert [list(s) for s in epoch(other, 5)] != [list(s) for s in first]


def test_round_robin_takes_turns() -> None:
    found = epoch(PerTaskLoader(loaders(), sampling=RoundRobinSampling()), 0)
    assert [next(iter(step)) for step in found] == list("abcabcabca")


def test_proportional_sampling_sees_every_row_once() -> None:
    found = epoch(PerTaskLoader(loaders(), sampling=ProportionalSampling()), 2)
    rows_seen = chain.from_iterable(batch or [] for step in found for batch in step.values())
    assert sorted(rows_seen) == [*range(22), *range(100, 110), *range(200, 203)]
    assert [next(iter(step)) for step in found] != ["a"] * 6 + ["b"] * 3 + ["c"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (UniformSampling(), [1 / 3, 1 / 3, 1 / 3]),
        (TemperatureSampling(1.0), [0.25, 0.01, 0.74]),
        (TemperatureSampling(2.0), [0.5 / 1.460233, 0.1 / 1.460233, 0.860233 / 1.460233]),
        (TemperatureSampling(float("inf")), [1 / 3, 1 / 3, 1 / 3]),
        (ProportionalSampling(), [0.25, 0.01, 0.74]),
        (RoundRobinSampling(), [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_shares_of_the_datasets(policy: Sampling, expected: list[float]) -> None:
    steps = 40_000
    drawn = policy.draw([25, 1, 74], steps, torch.Generator().manual_seed(0))
    assert drawn.shape == (steps,)
    shares = (torch.bincount(drawn, minlength=3) / steps).tolist()
    assert shares == pytest.approx(expected, abs=0.01)  # four standard deviations


def test_steps_per_epoch() -> None:
    loader = PerTaskLoader(loaders(), sampling=ProportionalSampling(), steps_per_epoch=25)
    found = epoch(loader, 0)
    assert len(found) == len(loader) == 25
    assert [sum(name in step for step in found[:20]) for name in SIZES] == [12, 6, 2]


# ------------------------------------------------------------------------------------------------------------- resuming
def make(order: Any) -> PerTaskLoader:
    return PerTaskLoader(loaders(), **({"mode": order} if isinstance(order, str) else {"sampling": order}))


@pytest.mark.parametrize(
    "order",
    ["min_size", "max_size_cycle", "max_size", "sequential", *POLICIES],
    ids=lambda order: order if isinstance(order, str) else type(order).__name__,
)
def test_an_interrupted_epoch_goes_on_with_the_next_step(order: Any) -> None:
    whole = epoch(make(order), 4)
    for stop in range(1, len(whole)):
        begun = make(order)
        begun.set_epoch(4)
        steps = iter(begun)
        head = seen(next(steps) for _ in range(stop))
        resumed = make(order)
        resumed.load_state_dict(begun.state_dict())
        assert resumed.state_dict() == begun.state_dict()
        assert [*head, *seen(iter(resumed))] == whole, stop
        assert epoch(resumed, 5) == epoch(make(order), 5)


def test_a_complete_epoch_is_followed_by_the_next() -> None:
    done = make("max_size_cycle")
    epoch(done, 2)
    resumed = make("max_size_cycle")
    resumed.load_state_dict(done.state_dict())
    assert seen(iter(resumed)) == epoch(make("max_size_cycle"), 3)


class Counted:
    """A user's own loader: a length, batches in a fixed order, and nothing else."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        return ({"inputs": torch.full((2, 1), float(i)), "targets": {}} for i in range(self.batches))


def test_loaders_of_others_are_combined_and_continued() -> None:
    def others() -> PerTaskLoader:
        plain = DataLoader(rows("a"), batch_size=4, collate_fn=lambda found: found)
        return PerTaskLoader({"plain": plain, "own": Counted(4)}, sampling=TemperatureSampling(3.0))

    def first(step: Any) -> Any:
        name, batch = next(iter(step.items()))
        return name, batch["inputs"].flatten().tolist()

    whole = [first(step) for step in others()]
    assert {name for name, _ in whole} == {"plain", "own"}
    begun = others()
    steps = iter(begun)
    head = [first(next(steps)) for _ in range(7)]
    resumed = others()
    resumed.load_state_dict(begun.state_dict())
    assert [*head, *map(first, resumed)] == whole


def test_an_epoch_is_not_continued_with_other_data() -> None:
    begun = make(UniformSampling())
    next(iter(begun))
    fewer = {name: loader for name, loader in loaders().items() if name != "c"}
    resumed = PerTaskLoader(fewer, sampling=UniformSampling())
    resumed.load_state_dict(begun.state_dict())
    with pytest.raises(ConfigurationError, match=r"Cannot continue epoch 0 after its first 1 steps.*'c': 1"):
        next(iter(resumed))


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loaders": {}}, "expected at least one loader"),
        ({"loaders": {"a": iter([1])}}, "'a': expected a loader with a length, found list_iterator"),
        ({"loaders": {"a": Counted(0)}}, "'a': expected at least one batch"),
        ({"mode": "longest"}, "expected one of .*found 'longest'"),
        ({"mode": "max_size", "sampling": UniformSampling()}, "a `mode` or a `sampling` policy, found 'max_size'"),
        ({"steps_per_epoch": 3}, "together with a `sampling` policy, found 3"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PerTaskLoader(**{"loaders": loaders(), **options})


def test_a_temperature_is_above_0() -> None:
    with pytest.raises(ConfigurationError, match="above 0, found 0"):
        TemperatureSampling(0.0)


def test_a_loader_that_gives_fewer_batches_than_it_says() -> None:
    class Short(Counted):
        def __iter__(self) -> Iterator[Any]:
            return iter([next(super().__iter__())])

    with pytest.raises(ConfigurationError, match="expected 3 batches, as `len` says, found 2 fewer"):
        list(PerTaskLoader({"a": Short(3)}))
