"""Constant weights, by order and by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from mtl_lightning.balancing import Balancer, FixedWeighting
from mtl_lightning.types import ConfigurationError, Likelihood

GAUSSIAN = Likelihood(0.5, 0.5, "log_var")
LOSSES = torch.tensor([1.0, 2.0, 4.0])


def names(*tasks: str) -> dict[str, Likelihood]:
    return dict.fromkeys(tasks, GAUSSIAN)


def test_by_hand() -> None:
    balancer = FixedWeighting(3, weights=[0.5, 3.0, 0.25])
    assert balancer(LOSSES).item() == 0.5 + 6.0 + 1.0
    assert balancer(LOSSES, torch.tensor([True, False, True])).item() == 1.5


def test_is_the_plain_sum_by_default() -> None:
    assert torch.equal(FixedWeighting(3)(LOSSES), Balancer(3)(LOSSES))


def test_names_are_put_in_the_tasks_order() -> None:
    balancer = FixedWeighting(3, weights={"c": 3.0, "a": 1.0, "b": 2.0})
    balancer.bind(names("a", "b", "c"))
    assert balancer.fixed_weights.tolist() == [1.0, 2.0, 3.0]
    assert balancer(LOSSES).item() == 17.0


def test_gradients_are_the_weights() -> None:
    losses = LOSSES.clone().requires_grad_()
    FixedWeighting(3, weights=[0.5, 0.0, 2.0])(losses).backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.5, 0.0, 2.0]


def test_weights_survive_a_reload() -> None:
    fresh = FixedWeighting(3)
    fresh.load_state_dict(FixedWeighting(3, weights=[1.0, 2.0, 3.0]).state_dict())
    assert fresh(LOSSES).item() == 17.0


def test_names_need_binding() -> None:
    with pytest.raises(ConfigurationError, match=r"expected `bind` to tell which tasks \['a', 'b', 'c'\] are"):
        FixedWeighting(3, weights={"a": 1.0, "b": 1.0, "c": 1.0})(LOSSES)


@pytest.mark.parametrize(
    ("weights", "unknown", "missing"),
    [({"a": 1.0, "x": 1.0}, ["x"], ["b"]), ({"a": 1.0}, [], ["b"]), ({"a": 1.0, "b": 1.0, "c": 1.0}, ["c"], [])],
)
def test_unknown_and_missing_names_are_named(weights: dict[str, float], unknown: list[str], missing: list[str]) -> None:
    balancer = FixedWeighting(2, weights=weights)
    with pytest.raises(ConfigurationError) as caught:
        balancer.bind(names("a", "b"))
    assert f"each of the tasks ['a', 'b'], found weights for {unknown}" in str(caught.value)
    assert f"none for {missing}" in str(caught.value)


def test_number_of_weights_is_checked_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"each of 3 tasks, found 2: \[1.0, 2.0\]"):
        FixedWeighting(3, weights=[1.0, 2.0])


@pytest.mark.parametrize("weights", [[1.0, 2.5], {"a": 1, "b": 2.5}])
def test_from_yaml(weights: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--balancer", type=Callable[[int], Balancer])
    part = {"class_path": "mtl_lightning.balancing.FixedWeighting", "init_args": {"weights": weights}}
    balancer = parser.instantiate(parser.parse_object({"balancer": part})).balancer(2)
    balancer.bind(names("a", "b"))
    assert balancer.fixed_weights.tolist() == [1.0, 2.5]
